"""A model that answers questions about films from features and memories, so that neither is made twice."""

import copy
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import GenerationConfig

from videoxl.synthetic.questions import Question

from .settings import ANSWER_STARTS

MOST_ROWS = 16
ANSWER_TOKENS = 40  # more than the longest answer has that the synthetic world knows
# Bytes of keys and values that the rows of one batch may take together: many short memories are sooner read side by
# side, long ones one after the other, which needs no copies of them.
MEMORY_BUDGET = 2**26


class Answerer:
    """
    Films to features, features to memories, memories to answers. Only the model's public methods are used.

    Args:
        pipe: the pipeline of a checkpoint, whose model and processor are used.
        answers: to multiple choice, one of `ANSWER_STARTS`.
    """

    def __init__(self, pipe, answers: str = "free"):
        self.option_start = ANSWER_STARTS[answers]
        self.processor, self.tokenizer = pipe.processor, pipe.processor.tokenizer
        checkpoint = pipe.model.generation_config
        pad = checkpoint.pad_token_id if checkpoint.pad_token_id is not None else self.tokenizer.pad_token_id
        # `generate` fills what is not set from the model's own configuration: a shallow copy with another one shares
        # all weights and leaves the caller's model alone.
        self.model = copy.copy(pipe.model)
        self.model.generation_config = GenerationConfig(
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=checkpoint.eos_token_id,
            pad_token_id=0 if pad is None else pad,
            suppress_tokens=[self.processor.image_token_id, self.processor.video_token_id],
        )
        self.tokens_per_frame = self.model.config.tokens_per_frame
        self.window = self.model.config.text_config.beacon_window
        film = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}]
        (row,) = self.processor.encode_chats([film], add_generation_prompt=True)
        self.head = row[: row.index(self.processor.video_token_id)]  # the text before every film

    # Prompts

    def tail(self, question: Question, multiple_choice: bool) -> list[int]:
        """The prompt behind the film."""
        row = self._prompt([{"type": "video"}], question, multiple_choice)
        return row[row.index(self.processor.video_token_id) + 1 :]

    def blind_prompt(self, question: Question, multiple_choice: bool) -> list[int]:
        """The whole prompt, without a film."""
        return self._prompt([], question, multiple_choice)

    def _prompt(self, visuals: list[dict], question: Question, multiple_choice: bool) -> list[int]:
        text = {"type": "text", "text": question.prompt(multiple_choice)}
        chat = [{"role": "user", "content": [*visuals, text]}]
        start = self.option_start if multiple_choice else None
        return self.processor.encode_chats([chat], add_generation_prompt=True, answer_prefix=start)[0]

    # Films

    @torch.no_grad()
    def features(self, chunks: Iterable[np.ndarray]) -> torch.Tensor:
        """
        Args:
            chunks: frames in order, each uint8 `[f, H, W, 3]`.

        Returns:
            `torch.Tensor`: the film's visual tokens, `[F · M, D]`.
        """
        parts = []
        for chunk in chunks:
            pixels = self.processor.video_processor(chunk, do_sample_frames=False)["pixel_values_videos"][0]
            parts += self.model.get_video_features([pixels]).pooler_output
        return torch.cat(parts)

    def last_border(self, frame: int, ratio: int) -> int:
        """
        The last place in a film, in visual tokens, from which frame `frame` can be changed and the rest gone on with:
        the end of a window which, as all before it, leaves no visual token waiting for its VST.
        """
        step = self.window if not ratio else math.lcm(self.window, ratio)
        return frame * self.tokens_per_frame // step * step

    @torch.no_grad()
    def new_memory(self):
        """A cache of one row that holds the text before the film."""
        memory = self.model.new_cache()
        ids = torch.tensor([self.head], device=self.model.device)  # [1, P]
        self.model.model(input_ids=ids, past_key_values=memory, use_cache=True, logits_to_keep=_no_output())
        return memory

    @torch.no_grad()
    def extend(self, memory, features: Sequence[torch.Tensor], ratio: int) -> None:
        """
        Goes on with the film: `memory` takes in the next visual tokens of each of its rows.

        The result is the one of the whole film where the visual tokens seen before end at a [`last_border`].

        Args:
            features: for each row `[n, D]`, all of the same n.
        """
        count = features[0].shape[0]
        if count:
            ids = torch.full((len(features), count), self.processor.video_token_id, device=self.model.device)
            self.model.model(
                input_ids=ids,
                past_key_values=memory,
                use_cache=True,
                mm_encoder_outputs={"video": list(features)},
                compression_ratio=ratio,
                logits_to_keep=_no_output(),
            )

    def rows_at_once(self, visual_tokens: int, ratio: int) -> int:
        """How many memories of a film of that length may stand side by side."""
        text = self.model.config.text_config
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        entry = 2 * text.num_hidden_layers * text.num_key_value_heads * width * self.model.dtype.itemsize  # bytes
        kept = len(self.head) + visual_tokens // max(1, ratio)
        return max(1, min(MOST_ROWS, MEMORY_BUDGET // (kept * entry)))

    # Answers

    def answer(self, memory, tails: Sequence[Sequence[int]]) -> list[str]:
        """Greedy answers to one prompt's tail per row of `memory`, which is used up."""
        seen = memory.get_seq_length() - len(self.head)
        return self._replies(memory, [*self.head, *[self.processor.video_token_id] * seen], tails)

    def answer_blind(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Greedy answers to prompts without a film."""
        return self._replies(self.model.new_cache(), [], prompts)

    def _replies(self, cache, seen: list[int], tails: Sequence[Sequence[int]]) -> list[str]:
        longest = max(map(len, tails))
        pad = self.model.generation_config.pad_token_id
        ids = [[*seen, *[pad] * (longest - len(tail)), *tail] for tail in tails]
        mask = [[1] * len(seen) + [0] * (longest - len(tail)) + [1] * len(tail) for tail in tails]
        ids, mask = (torch.tensor(rows, device=self.model.device) for rows in (ids, mask))  # [B, T]
        output = self.model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache)
        return self.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)


def _no_output() -> torch.Tensor:
    """`logits_to_keep` of a pass that nobody asks for any output of."""
    return torch.zeros(0, dtype=torch.long)
