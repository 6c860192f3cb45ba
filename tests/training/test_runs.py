"""Whole runs: seeds, accumulation, resuming, curriculum, log, command line."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, TrainerCallback

from videoxl.cli import main
from videoxl.training.arguments import arguments_from
from videoxl.training.run import CONFIGS, read_config, run_training

CURRICULUM = [{"ratios": [16], "max_frames": 6}, {"from_fraction": 0.5, "ratios": [2, 4], "max_frames": 30}]


@pytest.fixture
def settings(checkpoint, tmp_path):
    """Settings of a short run."""

    def make(name="run", **more):
        return {
            "model": str(checkpoint),
            "output_dir": str(tmp_path / name),
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            **more,
        }

    return make


def losses(trainer):
    return {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}


class Watch(TrainerCallback):
    """Calls a function with the model, the step and what the model's forward is given."""

    def __init__(self, see):
        self.see = see

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.register_forward_pre_hook(
            lambda module, _, inputs: self.see(module, state.global_step, inputs), with_kwargs=True
        )


def test_same_seed_same_losses(settings, rows):
    first = losses(run_training(settings(), train_rows=rows))
    assert losses(run_training(settings("again"), train_rows=rows)) == first
    assert losses(run_training(settings("other", seed=7), train_rows=rows)) != first
    assert list(first) == [1, 2, 3, 4]


def test_it_learns(settings, rows):
    """Five rows by heart, at whatever ratio; evaluation says so, and so does the saved model."""
    rows = [*rows[:3], *rows[8:]]
    sizes = {"max_steps": 30, "per_device_train_batch_size": 5, "learning_rate": 3e-3}
    run = settings(eval_strategy="steps", eval_steps=15, **sizes)
    trainer = run_training(run, train_rows=rows, eval_rows=rows)
    learned = losses(trainer)
    assert learned[30] < learned[1] / 10
    evaluated = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
    assert evaluated[1] < evaluated[0]
    assert evaluated[1] < learned[1] / 5
    saved = AutoModelForCausalLM.from_pretrained(run["output_dir"]).eval()
    assert saved(**trainer.data_collator(rows)).loss.item() == pytest.approx(evaluated[1], abs=1e-3)


def test_accumulation_is_a_larger_batch(settings, rows):
    whole = losses(run_training(settings(per_device_train_batch_size=4, max_steps=3), train_rows=rows))
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3}
    assert losses(run_training(settings("parts", **parts), train_rows=rows)) == pytest.approx(whole, abs=1e-4)


def test_checkpointed_windows_learn_the_same(settings, rows):
    plain = losses(run_training(settings(max_steps=2), train_rows=rows))
    checkpointed = losses(run_training(settings("less", max_steps=2, checkpoint_windows=True), train_rows=rows))
    assert checkpointed == pytest.approx(plain, abs=1e-5)


def test_curriculum_goes_by_the_step(settings, rows):
    """Read ahead by two processes, too: what a step sees is what the curriculum says of that step."""
    seen = []

    def see(model, step, inputs):
        longest = max((len(frames) for frames in inputs.get("pixel_values_videos", [])), default=0)
        seen.append((step, longest, list(model.config.text_config.beacon_ratio)))

    run = settings(max_steps=6, per_device_train_batch_size=5, curriculum=CURRICULUM, dataloader_num_workers=2)
    run_training(run, train_rows=rows, callbacks=[Watch(see)])
    assert [ratios for _, _, ratios in seen] == [[16]] * 3 + [[2, 4]] * 3
    assert max(longest for step, longest, _ in seen if step < 3) == 6
    assert 6 < max(longest for step, longest, _ in seen if step >= 3) <= 30
    assert AutoModelForCausalLM.from_pretrained(run["output_dir"]).config.text_config.beacon_ratio == [2, 4, 8, 12, 16]


KILLED = """
import os, signal, sys, yaml
from transformers import TrainerCallback
from videoxl.training.run import run_training

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

run_training(yaml.safe_load(sys.stdin.read()), callbacks=[Kill()])
"""


def test_a_killed_run_goes_on_as_if_nothing_had_been(settings, annotations):
    """Killed at step 7 of 9, in the second epoch and the second phase, with a checkpoint of step 5."""
    run = {"train_data": str(annotations), "max_steps": 9, "save_strategy": "steps", "save_steps": 5}
    run |= {"curriculum": CURRICULUM, "dataloader_num_workers": 1, "train_sampling_strategy": "group_by_length"}
    whole = losses(run_training(settings("whole", **run)))
    killed = settings("killed", **run)
    ended = subprocess.run([sys.executable, "-c", KILLED], input=yaml.safe_dump(killed), text=True)
    assert ended.returncode == -signal.SIGKILL
    log = Path(killed["output_dir"]) / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[-1])["step"] >= 6
    assert losses(run_training(killed, resume=True)) == pytest.approx(whole, abs=1e-5)
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["step"]: line["loss"] for line in logged if "loss" in line} == pytest.approx(whole, abs=1e-5)
    assert [line["step"] for line in logged if "loss" in line] == list(range(1, 10))


def test_interrupt_saves_and_says_how_to_go_on(settings, rows):
    whole = losses(run_training(settings("whole", max_steps=5), train_rows=rows))

    class Press(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = settings(max_steps=5)
    with pytest.raises(KeyboardInterrupt, match=r"step 3 is saved in .*--resume"):
        run_training(stopped, train_rows=rows, callbacks=[Press()])
    assert signal.getsignal(signal.SIGINT) is before
    assert losses(run_training(stopped, train_rows=rows, resume=True)) == pytest.approx(whole, abs=1e-5)


def test_command_trains_and_leaves_log_and_curve(settings, annotations, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    changed = settings(train_data=str(annotations), eval_data=str(annotations), report_to="tensorboard")
    config.write_text(yaml.safe_dump({**changed, "bf16": True, "activation_checkpointing": True}))
    assert (
        main(["train", str(config), "max_steps=2", "eval_strategy=steps", "eval_steps=1", "learning_rate=1e-4"]) == 0
    )
    folder = Path(changed["output_dir"])
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "eval_loss" in line] == [1, 2]
    assert [line["learning_rate"] for line in logged if "loss" in line] == pytest.approx([1e-4, 5e-5])
    assert (folder / "loss.png").stat().st_size > 5000
    events = EventAccumulator(str(next(folder.glob("runs/*"))))
    events.Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx([line["loss"] for line in logged if "loss" in line])
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "stage1_projector, stage2_everything"),
        (["CONFIG", "learning_rat=1.0"], "'learning_rat': did you mean 'learning_rate'?"),
        (["CONFIG", "learning_rate=fast"], "learning_rate: needs a number, got the text 'fast'"),
        (["CONFIG", "trained_parts=[projektor]"], "'projektor': did you mean 'projector'?"),
        (["CONFIG", "max_frames=0"], "max_frames=0"),
        (["CONFIG", "lora={rang: 3}"], "lora has no setting 'rang'"),
        (["CONFIG", "curriculum=[{ratios: [0.5]}]"], "curriculum, phase 0: ratios=[0.5]"),
        (["CONFIG", "train_data=missing.json"], "missing.json"),
        (["CONFIG", "model=null"], "no 'model'"),
        (["CONFIG", "model=./gone"], "model ./gone: no such folder"),
        (["CONFIG", "max_steps"], "name=value"),
        (["CONFIG", "--resume"], "no checkpoint to go on from"),
    ],
)
def test_bad_settings_are_one_line(arguments, said, settings, annotations, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings(train_data=str(annotations))))
    assert main(["train", *(str(config) if one == "CONFIG" else one for one in arguments)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="what the processor can do is read from Linux")
def test_bfloat16_where_the_processor_has_it(tmp_path):
    flags = set(re.findall(r"[\w-]+", Path("/proc/cpuinfo").read_text()))
    common = {"output_dir": str(tmp_path), "use_cpu": True}
    assert arguments_from({**common, "bf16": "auto"}).bf16 is bool(flags & {"avx512_bf16", "amx_tile"})
    assert [arguments_from({**common, "bf16": named}).bf16 for named in (True, False)] == [True, False]
    with pytest.raises(ValueError, match="bf16='sometimes': give true, false or auto"):
        arguments_from({**common, "bf16": "sometimes"})


def test_shipped_configurations_are_those_of_the_paper(tmp_path):
    names = ("learning_rate", "lr_scheduler_type", "warmup_steps", "bf16")
    read = {}
    for name in ("stage1_projector", "stage2_everything"):
        arguments = arguments_from({**read_config(CONFIGS / f"{name}.yaml"), "use_cpu": True})
        read[name] = [getattr(arguments, one) for one in names], arguments
    assert read["stage1_projector"][0] == [5e-4, "cosine", 0.03, True]
    assert read["stage1_projector"][1].trained_parts == ["projector"]
    assert read["stage2_everything"][0] == [1e-5, "cosine", 0.03, True]
    second = read["stage2_everything"][1]
    assert (second.max_frames, second.per_device_train_batch_size, second.gradient_accumulation_steps) == (128, 1, 8)
