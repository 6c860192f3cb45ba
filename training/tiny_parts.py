"""The small checkpoint's parts: tokenizer, vision tower, language model, processor."""

import functools
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPVisionConfig, PreTrainedTokenizerFast, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionModel

from videoxl.modeling_videoxl.vision_videoxl import patch_features
from videoxl.synthetic.films import FRAME_SIZE

from .tiny_data import NO_COLOUR, NO_SIGN, UNKNOWN

VOCABULARY = 1000
PLAIN_ATTENTION = "eager"  # at this size and in bfloat16 the fastest on a CPU, by nearly half
# Words take their space along; signs of punctuation stand alone, so that "(B" at an answer's start is two tokens, the
# first of them the end of the prompt.
WORDS = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s")
CHAT_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"  # what the chat template writes around texts
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen2's special tokens; any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(WORDS, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def vision_config(hidden: int, layers: int) -> CLIPVisionConfig:
    """CLIP's tower for frames of 64 x 64 in patches of 8: 8 x 8 patches, 4 x 4 visual tokens after pooling."""
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        image_size=FRAME_SIZE,
        patch_size=8,
        hidden_act="gelu",
    )


def text_config(vocab_size: int, hidden: int, layers: int) -> Qwen2Config:
    """Qwen2 with heads of 32, two queries to a key, embeddings tied."""
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
        # Of 16 rotary pairs only five turn by more than a radian in 5,000 places: with the others the content of a VST
        # is found wherever it stands.
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        max_position_embeddings=32768,
        # The usual 0.02 suits widths of thousands: at this one it leaves so little signal that for hundreds of steps
        # nothing is learned from what the projector sends.
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=SPECIAL.index("<|im_end|>"),
        pad_token_id=SPECIAL.index("<|endoftext|>"),
    )


def image_processor() -> CLIPImageProcessorPil:
    """CLIP's preprocessing at the size of the drawn frames, which it leaves as they are but for the normalization."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": FRAME_SIZE}, crop_size={"height": FRAME_SIZE, "width": FRAME_SIZE}
    )


class FrameReader(nn.Module):
    """
    A vision tower that learns to say what a single frame shows, as CLIP learned from pictures and captions.

    Every patch of the layer that the projector will get says what the whole frame shows: so each of its visual tokens
    tells all, whichever of them a VST looks at.
    """

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.vision_tower = CLIPVisionModel._from_config(config, attn_implementation=PLAIN_ATTENTION)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.sign = nn.Linear(config.hidden_size, NO_SIGN + 1)
        self.colour = nn.Linear(config.hidden_size, NO_COLOUR + 1)

    def forward(self, pixel_values: torch.Tensor, sign: torch.Tensor, colour: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pixel_values` [B, 3, S, S]; `sign` and `colour` [B], `UNKNOWN` where there is nothing to learn."""
        seen = self.norm(patch_features(self.vision_tower, pixel_values, -1))  # [B, P², D]
        loss, right = 0.0, True
        for head, truth in ((self.sign, sign), (self.colour, colour)):
            said = head(seen)  # [B, P², classes]
            each = truth[:, None].expand(said.shape[:2])
            loss = loss + nn.functional.cross_entropy(said.flatten(0, 1), each.flatten(), ignore_index=UNKNOWN)
            right = right & ((said.mean(1).argmax(-1) == truth) | (truth == UNKNOWN))
        return {"loss": loss, "right": right}


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """Drawn frames, uint8 [B, S, S, 3], to the pixel values that the processor makes of them, float32 [B, 3, S, S]."""
    mean, std = _mean_and_deviation()
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std


@functools.cache
def _mean_and_deviation() -> tuple[torch.Tensor, torch.Tensor]:
    processor = image_processor()
    return tuple(torch.tensor(values).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std))


class FrameCollator:
    """Frames of `SingleFrames` to a batch of `FrameReader`."""

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = {name: torch.tensor([row[name] for row in rows]) for name in ("sign", "colour")}
        return {"pixel_values": normalized(torch.stack([row["pixels"] for row in rows])), **batch}
