"""Passes in step with other processes, where weights are gathered from all of them for every pass.

Under FSDP and ZeRO-3 each layer's weights are gathered by all processes together whenever it runs. Films of different
lengths take different numbers of passes, and a process that has finished would leave the others waiting. So all follow
one schedule of rounds: a text pass, then as many windows as any process has behind that text, and before each window
as many chunks of the vision tower as any process encodes for it. Who has less runs fillers. The output of every pass
counts zero times in the loss, on top of what it does anyway, so that the backward passes are in step, too, and every
pass of a kind has gradients for the same weights, of which alone the sums over processes are made.
"""

import torch

from .windows_videoxl import VIDEO, Segment

Rounds = list[list[int]]  # for each text pass, for each window behind it: the chunks that are encoded for it


class Fillers:
    """Passes that change nothing, as small as there are, and the zeros that tie them to the loss."""

    def __init__(self, model):
        self._model, self.zeros = model, []

    def text(self) -> None:
        """A text pass over one token."""
        embeddings = self._model.get_input_embeddings()
        self._pass(embeddings(torch.zeros(1, 1, dtype=torch.long, device=self._model.first_device)), Segment(0, 1))

    def window(self) -> None:
        """A window of one visual token and one VST."""
        model = self._model
        embeds = torch.zeros(
            1, 1, model.config.text_config.hidden_size, device=model.first_device, dtype=model.language_model.dtype
        )
        self._pass(embeds, Segment(0, 1, visual=True, ratio=1, first=1, regular=1))

    def chunk(self) -> None:
        """One frame through the vision tower."""
        size = self._model.config.vision_config.image_size
        self.tie(self._model.encoder(VIDEO, torch.zeros(1, 3, size, size)))

    def _pass(self, embeds: torch.Tensor, segment: Segment) -> None:
        cache = self._model.new_cache()
        cache.start(1)
        hidden, _ = self._model.passes(cache).run(embeds, segment)
        self.tie(hidden)

    def tie(self, states: torch.Tensor) -> None:
        """Makes `states` a part of the loss that counts zero times."""
        if states.requires_grad:
            self.zeros.append(states.float().sum() * 0)


class Schedule:
    """
    Runs fillers before a process's own passes where the schedule has more than these.

    Args:
        rounds: the schedule of all processes; each process's own rounds fit into it.
        fillers: what runs in the places that this process has nothing for.
    """

    def __init__(self, rounds: Rounds, fillers: Fillers):
        self._rounds, self.fillers = rounds, fillers
        self._round, self._window = -1, 0

    def text(self) -> None:
        """To be called before each own text pass."""
        self._end_round()
        self._round, self._window = self._round + 1, 0

    def window(self, chunks: int) -> None:
        """To be called before each own window, for which `chunks` will be encoded."""
        if self._round < 0:
            self._skip_text()
        for _ in range(self._rounds[self._round][self._window] - chunks):
            self.fillers.chunk()
        self._window += 1

    def finish(self) -> None:
        """To be called behind the last own pass."""
        self._end_round()
        while self._round + 1 < len(self._rounds):
            self._skip_text()
            self._end_round()

    def _skip_text(self) -> None:
        self.text()
        self.fillers.text()

    def _end_round(self) -> None:
        while self._round >= 0 and self._window < len(self._rounds[self._round]):
            self.window(0)
            self.fillers.window()
