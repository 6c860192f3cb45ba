"""A small checkpoint with random weights behind a pipeline, and the plain way to its answers."""

import pytest
import torch
from transformers import GenerationConfig

PREFIX = "Best option: ("


@pytest.fixture(scope="session")
def plain_reply(pipe):
    """
    What the model answers to one question about one film, read whole in one call of `generate` that nothing is handed
    over to; without a film if there is none. `film` is uint8 [F, H, W, 3], or pixel values [F, 3, S, S].
    """

    def reply(film, question, ratio, new_tokens, answer_prefix=None):
        content = [{"type": "text", "text": question}]
        inputs = {}
        if film is not None:
            content = [{"type": "video"}, *content]
            if film.ndim == 4 and film.shape[-1] == 3:
                film = pipe.processor.video_processor(film, do_sample_frames=False)["pixel_values_videos"][0]
            inputs = {"pixel_values_videos": [film], "compression_ratio": ratio}
        rows = pipe.processor.encode_chats(
            [[{"role": "user", "content": content}]], add_generation_prompt=True, answer_prefix=answer_prefix
        )
        ids = torch.tensor(pipe.processor.expand(rows, inputs))
        neutral = {"do_sample": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        config = GenerationConfig(
            **neutral,
            max_new_tokens=new_tokens,
            eos_token_id=pipe.model.generation_config.eos_token_id,
            pad_token_id=pipe.model.generation_config.pad_token_id,
            suppress_tokens=[pipe.processor.image_token_id, pipe.processor.video_token_id],
        )
        output = pipe.model.generate(ids, generation_config=config, **inputs)[0, ids.shape[1] :]
        return pipe.processor.tokenizer.decode(output, skip_special_tokens=True)

    return reply
