"""What a window and a film cost in bytes beyond what is kept of them: nothing that grows with the film."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videoxl.modeling_videoxl.cache_videoxl import GROWTH
from videoxl.modeling_videoxl.windows_videoxl import Segment, SpanPlanner
from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor

FRAMES, RATIO = 200, 2  # 800 visual tokens, 400 VSTs


class MadeBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make; views and what is written in place are no news."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), kwargs=None):
        result = operation(*arguments, **(kwargs or {}))
        given, came = sizes_in((arguments, kwargs)), sizes_in(result)
        self.count += sum(size for address, size in came.items() if address not in given)
        return result


def sizes_in(tree):
    """The bytes of all memory that the tree's tensors lie in, by its address."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def made_by_film(small, count):
    """Bytes that each of `count` windows makes, and a question behind them."""
    text, width = small.model.model.language_model, small.config.text_config.hidden_size
    assert len(text.layers) >= 3  # so that there are layers for all rows, for VSTs alone, and for K/V alone
    cache, planner, windows = small.model.new_cache(), SpanPlanner(False), []
    cache.start(1)
    cache.reserve(20 * 24)
    for _ in range(count):
        segment = planner.window(0, 48, RATIO, last=False)
        with MadeBytes() as made:
            text(torch.zeros(1, 48, width), segment, cache, hidden_needed=False)
        windows.append(made.count)
    with MadeBytes() as made:
        text(torch.zeros(1, 7, width), Segment(0, 7), cache)
    assert cache.physical_length == count * 24 + 7
    return windows, made.count


@torch.no_grad()
def test_a_pass_makes_as_many_bytes_whatever_is_kept(small):
    (short, question), (long, same_question) = made_by_film(small, 2), made_by_film(small, 20)
    assert set(long[1:]) == {short[1]} and short[1] > 0  # before the first window nothing is kept
    assert same_question == question > 0


@pytest.fixture
def stream(small):
    """A film as the model streams it, and a function for a film of unknown length: its pieces."""
    levels = np.random.default_rng(0).integers(0, 256, (FRAMES, 56, 56, 3), dtype=np.uint8)
    size = {"height": 56, "width": 56}
    processor = VideoXLVideoProcessor(size={"shortest_edge": 56}, crop_size=size)
    return processor.stream_video(levels, do_sample_frames=False)


def prefilled(small, chunks, ratio):
    """The cache, and the addresses at which its entries lay, window by window."""
    places = []

    def note(cache):
        places.append(cache.layers[1].keys.data_ptr())

    return small.model.prefill_video(torch.arange(9), chunks, ratio, note), places


@pytest.mark.parametrize("ratio", [RATIO, 0, [RATIO] * 17])
def test_room_is_made_once_and_holds_the_same(small, stream, ratio):
    """800 tokens are 17 windows of 48, the last of 32."""
    reserved, its_places = prefilled(small, stream, ratio)
    grown, other_places = prefilled(small, (stream.pixel_values(piece) for piece in stream.split(16)), ratio)
    assert reserved.physical_length == grown.physical_length == 9 + (800 if ratio == 0 else 400)
    for own, other in zip(reserved.layers, grown.layers):
        assert torch.equal(own.keys, other.keys) and torch.equal(own.values, other.values)
    assert len(set(its_places)) <= 2 < len(other_places)  # the prefix's block, and that of the whole film
    assert len(set(other_places)) > 1


@pytest.mark.parametrize("known", [True, False])
def test_bytes_held_are_those_kept_up_to_a_block(small, stream, known):
    chunks = stream if known else (stream.pixel_values(piece) for piece in stream.split(16))
    cache, _ = prefilled(small, chunks, RATIO)
    for layer in cache.layers:
        for states in (layer.keys, layer.values):
            entry = states.element_size() * states.shape[1] * states.shape[3]
            spare = states.untyped_storage().nbytes() - entry * cache.physical_length
            assert 0 <= spare <= entry * GROWTH


def test_ratios_that_do_not_fit_are_told_once_the_frames_came(small, stream):
    with pytest.raises(ValueError, match="lists 3 ratios"):
        prefilled(small, stream, [RATIO] * 3)
    assert stream.frames_read > 0
