"""Decoding over buffers of a fixed size: what a token takes is the same work for every token, and need not be told to
the device kernel by kernel each time."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import CompileConfig
from transformers.integrations import is_fsdp_managed_module
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import CausalLMOutputWithPast

from .attention_videoxl import ROOM, can_split
from .cache_videoxl import VideoXLCache

# Modes of torch.compile that record CUDA graphs themselves, and the same without.
WITHOUT_GRAPHS = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}


def obstacle(model: nn.Module) -> str | None:
    """Why a model cannot decode over buffers of a fixed size, in words, or None where it can."""
    language_model = model.model.language_model
    modules = [*language_model.modules(), model.lm_head]
    devices = {weight.device for module in (language_model, model.lm_head) for weight in module.parameters()}
    rope = language_model.rotary_emb.rope_type
    quantizer = getattr(model, "hf_quantizer", None)
    if model.training:
        return "the model is in training"
    if torch.is_autocast_enabled(model.device.type):
        return "autocast changes the types of keys and values"
    if language_model.config._attn_implementation != "sdpa":
        return f"its attention implementation is {language_model.config._attn_implementation!r}, not 'sdpa'"
    if "dynamic" in rope or rope == "longrope":
        return f"its rotary positions are of type {rope!r}, which are computed anew as the sequence grows"
    if len(devices) > 1 or "meta" in {device.type for device in devices}:
        return "its language model is spread over several devices"
    if is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model) or getattr(model, "_tp_size", None):
        return "its weights are spread over several processes"
    if quantizer is not None and not quantizer.is_compileable:
        return f"weights quantized by {quantizer.quantization_config.quant_method} cannot be compiled"
    if any(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook") for module in modules):
        return "hooks on its modules want to be called for every token"
    return None


class StaticDecoding:
    """
    Stands in for the model behind the first token of an answer.

    The cache's buffers are opened for the next `ROOM` entries, and each token writes its keys and values there, at a
    place that the device counts. So no shape, no address and no number on the host differs between two tokens: on a
    GPU the second token's work is recorded as a CUDA graph, which the tokens behind it replay until the room is full.
    With `compile_config` the work is compiled by `torch.compile` before. The cache is left as `forward` leaves it.

    Args:
        model: a `VideoXLForCausalLM` without an `obstacle`.
        compile_config: as in `generate`. Modes that stand for CUDA graphs, as `mode="reduce-overhead"`, its default,
            are taken without these, which are recorded here anyway; so on the CPU they mean nothing.
    """

    def __init__(self, model: nn.Module, compile_config: CompileConfig | None):
        self._model, self._step, self._compiles = model, next_logits, compile_config is not None
        if self._compiles:
            options = compile_config.to_dict()
            options["mode"] = WITHOUT_GRAPHS.get(options["mode"], options["mode"])
            self._step = torch.compile(next_logits, **options)
        self._cache: VideoXLCache | None = None

    def __call__(self, input_ids=None, past_key_values=None, **kwargs) -> CausalLMOutputWithPast:
        """`forward`, which takes whatever is not one token for each row of a filled cache."""
        single = input_ids is not None and input_ids.shape[1] == 1 and past_key_values is not None
        states = kwargs.get("output_hidden_states") or self._model.config.output_hidden_states
        if not single or states or not past_key_values.physical_length or torch.is_grad_enabled():
            return self._model(input_ids=input_ids, past_key_values=past_key_values, **kwargs)
        if past_key_values is not self._cache or not past_key_values.room:
            self._open(past_key_values, input_ids)
        self._tokens.copy_(input_ids)
        logits = self._next_logits()
        past_key_values.fill_room(1)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def _open(self, cache: VideoXLCache, input_ids: torch.Tensor) -> None:
        """New room, and the tensors that every token's work starts from."""
        if cache.batch_size != input_ids.shape[0]:
            cache.start(input_ids.shape[0])  # raises
        kept, device = cache.layers[0].keys, self._model.model.first_device
        padding, heads = cache.padding, self._model.config.text_config.num_attention_heads
        self._next_logits = None  # lets go of what came before
        self._cache, self._tokens = cache, torch.empty_like(input_ids, device=device)  # [B, 1]
        split = can_split("sdpa", kept, heads, any(padding))
        place = torch.tensor([cache.physical_length], device=device)
        padding = torch.tensor(padding if any(padding) else [0], device=device)[:, None]  # [1 or B, 1]
        entries = cache.open_room(ROOM)
        for states in (states for layer in entries if self._compiles for states in layer):
            torch._dynamo.maybe_mark_dynamic(states, 2)  # films differ in length: one compilation is for all of them
        # Not of `self`, which would live in a circle, with all its memory, until it is searched for.
        work = partial(self._step, self._model, self._tokens, entries, place, padding, split)
        self._next_logits = Recorded(work, device) if device.type == "cuda" else work


def next_logits(
    model: nn.Module,
    tokens: torch.LongTensor,
    entries: list[tuple[torch.Tensor, torch.Tensor]],
    place: torch.LongTensor,
    padding: torch.LongTensor,
    split: bool,
) -> torch.Tensor:
    """Logits behind one more token of every row, `[B, 1]` to `[B, 1, vocabulary]`; see `VideoXLTextModel.step`."""
    hidden = model.model.language_model.step(tokens, entries, place, padding, split)
    place.add_(1)
    return model.lm_head(hidden)


class Recorded:
    """
    Work on a GPU that is the same on the same tensors each time: done once, which also readies what kernels and
    compilers ready at their first use; then recorded as a CUDA graph; from then on replayed.

    Every call returns the same tensor, written anew.
    """

    def __init__(self, work: Callable[[], torch.Tensor], device: torch.device):
        self._work, self._device = work, device
        self._was_done, self._graph = False, None

    def __call__(self) -> torch.Tensor:
        if not self._was_done:
            self._was_done = True
            return self._work()
        with torch.cuda.device(self._device):
            if self._graph is None:
                self._record()
            self._graph.replay()
        return self._result

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which may read another film, are not to break the recording off.
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            self._result = self._work()
        self._graph = graph
