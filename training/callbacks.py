"""What goes along with a run: the curriculum, the log and its curve, and a stop that can be gone on from."""

import contextlib
import json
import signal
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback

LOG_NAME = "log.jsonl"
CURVE_NAME = "loss.png"


class CurriculumSteps(TrainerCallback):
    """Tells sampler and model where in the run they are."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        sampler = self.trainer.tickets
        sampler.epoch, sampler.total_steps = int(state.epoch or 0), state.max_steps

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.use_ratios(self.trainer.curriculum.phase(state.global_step, state.max_steps).ratios)


class RunLog(TrainerCallback):
    """
    Every logged line as JSON in `log.jsonl`, with `step` and `seconds`; at the end the loss as a curve, `loss.png`.

    A resumed run cuts what was logged behind its checkpoint, and goes on.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / LOG_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_log(path) if state.global_step and path.is_file() else []
        kept = [line for line in lines if line["step"] <= state.global_step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._start = time.monotonic() - (kept[-1]["seconds"] if kept else 0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self._start, 3), **logs}
        with open(Path(args.output_dir) / LOG_NAME, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            draw_curve(Path(args.output_dir) / LOG_NAME, Path(args.output_dir) / CURVE_NAME)


def read_log(path: Path) -> list[dict]:
    """The lines of a run's log; a last one that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def draw_curve(log: Path, picture: Path) -> None:
    """The losses of training and evaluation over the steps, as a PNG."""
    from matplotlib.figure import Figure

    lines = read_log(log)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points), label=label, marker="." if len(points) < 30 else None)
    if axes.lines:
        axes.legend()
    figure.savefig(picture, dpi=120)


class StopOnInterrupt(TrainerCallback):
    """
    Ctrl-C ends the run behind the current step, with a checkpoint; a second one ends it at once. Of several processes
    all end behind the same step, whichever was told first.

    Attributes:
        asked (`bool`): whether somebody pressed Ctrl-C.
    """

    def __init__(self):
        self.asked = False

    @contextlib.contextmanager
    def listening(self):
        """Where Ctrl-C is listened to; processes that are started here leave it to this one."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread alone
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, number, frame):
        self.asked = True
        print("\nStopping behind this step, with a checkpoint. Ctrl-C again stops at once.", flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args, state, control, **kwargs):
        if dist.is_initialized():
            asked = torch.tensor(float(self.asked), device=args.device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
            self.asked = bool(asked)
        if self.asked:
            control.should_save = control.should_training_stop = True
