"""The command line: `videoxl ask`, `convert`, `export-hub`, `assemble`, `train`, `eval`, `demo`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from .checkpoints import naming_checkpoint

MODEL_VARIABLE = "VIDEOXL_MODEL"
SMALL = 256  # width of a language model whose operations two cores share in more time than one takes


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Returns:
        `int`: 0; 1 after an error, said on standard error; 2 for wrong arguments; 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt as interrupt:
        print(f"Interrupted: {interrupt}" if str(interrupt) else "Interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"videoxl {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    parser = argparse.ArgumentParser(prog="videoxl", description="Video-XL: questions about hour-long videos.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_ask(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_assemble(commands)
    _add_train(commands)
    _add_eval(commands)
    demo = commands.add_parser("demo", help="answer questions about a film made on the spot, and about a real one")
    _add_model(demo)
    demo.add_argument("--seed", type=int, default=0, metavar="S", help="of the films: each shows other things")
    demo.add_argument("--output", default=".demo", metavar="DIR", help="for films and pictures (default: .demo)")
    demo.set_defaults(run=_demo)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        default=os.environ.get(MODEL_VARIABLE),
        help=f"folder or Hub id of a checkpoint (default: ${MODEL_VARIABLE}, or else the one that comes with videoxl)",
    )


def _add_ask(commands) -> None:
    ask = commands.add_parser("ask", help="ask questions about a video")
    ask.add_argument("file", metavar="FILE", help="a video, or a folder of images")
    ask.add_argument("questions", metavar="QUESTION", nargs="+", help="the video is compressed once for all of them")
    _add_model(ask)
    ask.add_argument("--frames", type=int, metavar="N", help="frames, evenly spaced (default: 1 a second, up to 256)")
    ask.add_argument(
        "--ratio",
        type=int,
        metavar="R",
        help="visual tokens per kept token; 0 for no compression (default: the model's)",
    )
    ask.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default: 256)")
    ask.add_argument("--json", action="store_true", help="print one JSON object")
    ask.set_defaults(run=_ask)


def _add_convert(commands) -> None:
    convert = commands.add_parser("convert", help="convert a checkpoint in the authors' layout, or check one")
    convert.add_argument("source", metavar="SOURCE", nargs="?", default="sy1998/Video_XL", help="folder or Hub id")
    convert.add_argument("dest", metavar="DEST", help="folder of the converted checkpoint")
    convert.add_argument("--check", action="store_true", help="compare the logits of SOURCE and a converted DEST")
    convert.add_argument("--subfolder", metavar="S", help="where in SOURCE the weights lie")
    convert.add_argument("--vision-tower", metavar="DIR_OR_ID", help="whose config.json says what the vision tower is")
    convert.add_argument("--dtype", metavar="D", help="type to store, such as bfloat16 (default: as they are)")
    convert.add_argument("--allow-bin", action="store_true", help="read .bin weights, without unpickling objects")
    convert.add_argument("--overwrite", action="store_true", help="replace DEST, if it is a converted checkpoint")
    convert.add_argument("--quiet", action="store_true", help="print no table")
    convert.set_defaults(run=_convert)


def _add_export(commands) -> None:
    export = commands.add_parser("export-hub", help="make a folder that the Hub serves with its code")
    export.add_argument("model", metavar="MODEL", help="folder or Hub id of a converted checkpoint")
    export.add_argument("dest", metavar="DEST", help="folder to make")
    export.add_argument("--push", metavar="REPO", help="upload it to this repository of the Hub")
    export.add_argument("--private", action="store_true", help="with --push: make the repository private")
    export.add_argument("--overwrite", action="store_true", help="replace DEST, if it is such a folder")
    export.set_defaults(run=_export)


def _add_assemble(commands) -> None:
    assemble = commands.add_parser("assemble", help="make a new Video-XL of a Qwen2 and a CLIP, to be trained")
    assemble.add_argument("text_model", metavar="TEXT_MODEL", help="folder or Hub id of a Qwen2")
    assemble.add_argument("vision_model", metavar="VISION_MODEL", help="folder or Hub id of a CLIP")
    assemble.add_argument("dest", metavar="DEST", help="folder of the new checkpoint")
    assemble.add_argument("--window", type=int, metavar="N", help="visual tokens of a window (default: 10 frames)")
    assemble.add_argument("--ratios", type=integers, metavar="R,…", help="of training (default: 2,4,8,12,16)")
    assemble.add_argument("--pool-stride", type=int, metavar="S", help="over a frame's patches (default: 2)")
    assemble.add_argument("--feature-layer", type=int, metavar="L", help="hidden state of CLIP (default: -2)")
    assemble.add_argument("--seed", type=int, metavar="S", help="of the projector's weights (default: 0)")
    assemble.add_argument("--overwrite", action="store_true", help="replace DEST, if it is a Video-XL checkpoint")
    assemble.set_defaults(run=_assemble)


def _add_train(commands) -> None:
    train = commands.add_parser("train", help="train a checkpoint on annotated videos and images")
    train.add_argument("config", metavar="CONFIG", help="YAML file, or stage1_projector or stage2_everything")
    train.add_argument("changes", metavar="NAME=VALUE", nargs="*", help="settings in place of the file's")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in output_dir")
    train.set_defaults(run=_train)


def _add_eval(commands) -> None:
    experiments = commands.add_parser("eval", help="evaluate a checkpoint").add_subparsers(dest="eval", required=True)
    niah = experiments.add_parser("niah", help="find needles in long films: heat maps over length and depth")
    _add_experiment(niah)
    niah.add_argument("--haystack", metavar="FILE", help="a video; a short one is looped (default: drawn films)")
    niah.add_argument("--depths", type=_numbers, metavar="D,…", help="per cent of the film (default: 0,25,50,75,100)")
    niah.add_argument("--needles", metavar="DIR", help="pictures and needles.json (default: drawn needles)")
    niah.add_argument("--questions", type=int, metavar="N", help="in each cell (default: 5, or all of --needles)")
    niah.set_defaults(run=_eval_niah)
    families = experiments.add_parser("families", help="score the families of tasks over the compression ratios")
    _add_experiment(families)
    families.add_argument("--families", type=_names, metavar="NAME,…", help="some of them (default: all)")
    families.add_argument("--films", type=int, metavar="N", help="how many in all (default: 300)")
    families.set_defaults(run=_eval_families)


def _add_experiment(experiment: argparse.ArgumentParser) -> None:
    _add_model(experiment)
    experiment.add_argument("--frames", type=integers, metavar="N,…", help="lengths of the films")
    experiment.add_argument("--ratios", type=integers, metavar="R,…", help="compression ratios; 0 for none")
    experiment.add_argument("--seed", type=int, metavar="S", help="of films and needles (default: 0)")
    experiment.add_argument(
        "--answers",
        metavar="free|letter",
        help="to options: as the model likes, or a letter behind 'Best option: (' (default: free)",
    )
    experiment.add_argument(
        "--output",
        metavar="DIR",
        help="for results, which a stopped run goes on with (default: named for the settings)",
    )
    experiment.add_argument("--json", action="store_true", help="print one JSON object")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = [float(name) for name in _names(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers with commas between them") from error
    return tuple(int(number) if number.is_integer() else number for number in numbers)


def integers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, as an argument's `type`."""
    numbers = _numbers(text)
    if not all(isinstance(number, int) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers with commas between them")
    return numbers


# Each command imports what it needs: decoders, converter and demo are not loaded for the others.


def load_pipeline(model: str | None):
    """
    The pipeline of a checkpoint; of the one that comes with videoxl where none is named. For a small one on a CPU,
    torch is set to compute each operation on one core: vision then works on another.

    Raises:
        FileNotFoundError: if the name looks like a path, and no folder is there.
        OSError: if it is taken for a Hub id, and nothing can be loaded from there.
    """
    import torch
    from transformers import pipeline

    from videoxl import TASK, tiny_checkpoint

    name = model or str(tiny_checkpoint())
    with naming_checkpoint("--model", name):
        pipe = pipeline(TASK, model=name)
    if pipe.device.type == "cpu" and pipe.model.config.text_config.hidden_size <= SMALL:
        torch.set_num_threads(1)
    return pipe


def _ask(arguments: argparse.Namespace) -> None:
    pipe = load_pipeline(arguments.model)
    settings = {"max_new_tokens": arguments.max_new_tokens, "return_memory": True, "return_seconds": True}
    if arguments.frames is not None:
        settings["num_frames"] = arguments.frames
    if arguments.ratio is not None:
        settings["compression_ratio"] = arguments.ratio
    answers = pipe(video=arguments.file, question=list(arguments.questions), **settings)
    if arguments.json:
        common = {"video": answers[0]["video"], "memory": answers[0]["memory"]}
        pairs = [{name: answer[name] for name in ("question", "answer", "seconds")} for answer in answers]
        print(json.dumps({**common, "answers": pairs}, ensure_ascii=False))
        return
    from videoxl.demo import print_answers

    print_answers(answers, pipe.processor.tokens_per_frame)


def _convert(arguments: argparse.Namespace) -> None:
    if arguments.check:
        from videoxl.convert.conversion_check import check_conversion

        print(check_conversion(arguments.source, arguments.dest, arguments.subfolder, arguments.vision_tower))
        return
    from videoxl.convert.checkpoint_conversion import convert_checkpoint

    report = convert_checkpoint(
        arguments.source,
        arguments.dest,
        subfolder=arguments.subfolder,
        vision_tower=arguments.vision_tower,
        dtype=arguments.dtype,
        allow_bin=arguments.allow_bin,
        overwrite=arguments.overwrite,
    )
    if not arguments.quiet:
        print(report.table())
    print(f"Converted to {arguments.dest}")


def _export(arguments: argparse.Namespace) -> None:
    from videoxl.convert.hub_bundle import export_hub

    folder = export_hub(
        arguments.model,
        arguments.dest,
        push=arguments.push,
        private=arguments.private,
        overwrite=arguments.overwrite,
    )
    print(f"Bundle in {folder}" + (f", uploaded to {arguments.push}" if arguments.push else ""))


def _assemble(arguments: argparse.Namespace) -> None:
    from videoxl.training.assembly import assemble

    names = ("window", "ratios", "pool_stride", "feature_layer", "seed", "overwrite")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    config = assemble(arguments.text_model, arguments.vision_model, arguments.dest, **given)
    print(
        f"Assembled in {arguments.dest}: {config.tokens_per_frame} visual tokens a frame, windows of "
        f"{config.text_config.beacon_window}. Train it: videoxl train stage1_projector model={arguments.dest} …"
    )


def _train(arguments: argparse.Namespace) -> None:
    from videoxl.training.run import run_training

    trainer = run_training(arguments.config, arguments.changes, arguments.resume)
    if trainer.is_world_process_zero():
        print(f"Trained for {trainer.state.global_step} steps; model, log and curve are in {trainer.args.output_dir}")


def _eval_niah(arguments: argparse.Namespace) -> None:
    from videoxl.evaluation.niah import NiahSettings, niah_table, run_niah

    settings = NiahSettings(**_given(arguments, NiahSettings))
    summary = run_niah(load_pipeline(arguments.model), settings, arguments.output)
    print(json.dumps(summary) if arguments.json else niah_table(summary))


def _eval_families(arguments: argparse.Namespace) -> None:
    from videoxl.evaluation.families import FamilySettings, run_families

    settings = FamilySettings(**_given(arguments, FamilySettings))
    summary = run_families(load_pipeline(arguments.model), settings, arguments.output)
    print(json.dumps(summary) if arguments.json else "\n".join([summary["table"], "", *summary["files"]]))


def _given(arguments: argparse.Namespace, settings: type) -> dict:
    """The arguments that a dataclass of settings has a field for, where they were given."""
    names = settings.__dataclass_fields__
    return {name: value for name, value in vars(arguments).items() if name in names and value is not None}


def _demo(arguments: argparse.Namespace) -> None:
    from videoxl.demo import run_demo

    run_demo(load_pipeline(arguments.model), arguments.output, arguments.seed)
