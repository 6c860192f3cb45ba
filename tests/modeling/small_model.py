"""A small Video-XL, and what the tests do with it over and over."""

import torch

from benchmarks.authors_way import AuthorsWay, load_published

GREEDY = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "eos_token_id": None,
    "pad_token_id": 500,  # no id of `Small.text`: generate would take it for padding
    "max_new_tokens": 8,
}


class Small:
    """The model, and what tests do with it over and over."""

    def __init__(self, model, checkpoint):
        self.model, self.config = model, model.config
        self.video, self.image = self.config.video_token_id, self.config.image_token_id
        self.checkpoint = checkpoint
        self._draw = torch.Generator().manual_seed(0)

    def text(self, count):
        """`count` random text ids."""
        return torch.randint(0, 499, (count,), generator=self._draw).tolist()

    def frames(self, count):
        """`count` random frames, or tiles; 4 visual tokens each."""
        return torch.randn(count, 3, 56, 56, generator=self._draw)

    def generate(self, ids, **kwargs):
        """Greedy generation; the new tokens of one row, or of each of several."""
        several = not isinstance(ids, torch.Tensor) and not isinstance(ids[0], int)
        ids = torch.as_tensor(ids if several else [list(ids)])
        tokens = self.model.generate(ids, **{**GREEDY, **kwargs})
        if kwargs.get("return_dict_in_generate"):
            return tokens
        tokens = tokens[:, ids.shape[1] :].tolist()
        return tokens if several else tokens[0]

    def logits(self, ids, **kwargs):
        """Logits of every token of one row, `[T, vocabulary]`."""
        with torch.no_grad():
            return self.model(torch.tensor([ids]), **kwargs).logits[0]

    def features(self, pixels, image=False):
        """Visual tokens of one video or image."""
        with torch.no_grad():
            encode = self.model.get_image_features if image else self.model.get_video_features
            return encode([pixels]).pooler_output[0]

    def restated(self, segments, ratios, dtype=torch.float32, **kwargs):
        """The plain restatement's logits of every token, and its cache sizes."""
        weights, hyper = load_published(self.checkpoint)
        weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        with torch.no_grad():
            result = AuthorsWay(weights, hyper).run(segments, ratios, **kwargs)
        return result.logits, result.sizes
