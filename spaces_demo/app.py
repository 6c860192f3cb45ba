"""The Gradio app: a video and questions in; the answers as they are written, and what was kept of the video, out."""

import argparse
import html
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

try:
    import spaces  # first: on ZeroGPU hardware it stands in for CUDA until a request holds a GPU
except ImportError:
    spaces = None

import gradio as gr

from videoxl.cli import MODEL_VARIABLE, load_pipeline
from videoxl.demo import make_drawn_film
from videoxl.spaces_demo.answering import Progress, answer_stream
from videoxl.tiny import FOLDER

MAX_FRAMES = 512
DEFAULT_FRAMES = 64
MAX_QUESTIONS = 8
MAX_QUESTION_LENGTH = 2000  # characters
MAX_FILE_SIZE = "2gb"
GPU_SECONDS = 120
UPLOADS_KEPT = (600, 3600)  # every 10 minutes those older than an hour are deleted
EXAMPLES = (
    ("world.mp4", "What happens in this video?\n\nDoes this video contain any inserted advertisement?"),
    ("a.mp4", "What moves in this video?"),
)
KINDS = {
    "beacons": "Summary tokens (VSTs) of the video",
    "visual": "Visual tokens kept as they are",
    "sink": "Text before the video",
    "text": "Text after it: question and answer",
    "total": "Together",
}
THEME = gr.themes.Soft(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"])


def build_app(pipe: Any) -> gr.Blocks:
    """
    The app on a pipeline. Its API has one endpoint, `/ask`.

    Args:
        pipe: a `VideoQuestionAnsweringPipeline`.
    """

    def ask(
        video: str | None, question: str | None, frames: int, ratio: int, partial: bool
    ) -> Iterator[tuple[str, str, str, list[list]]]:
        """
        Answers questions about a video.

        Args:
            video: the file.
            question: one question, or several with an empty line between them.
            frames: how many frames to look at, evenly spaced.
            ratio: visual tokens per summary token that is kept; 0 keeps all visual tokens.
            partial: read what can be read of a damaged file.

        Returns:
            The status, the answer so far, and at the end what was kept of the video, in words and as a table.
        """
        questions = split_questions(question)
        if video is None:
            raise error_box("Upload a video first, or choose an example.")
        settings = {"num_frames": frames, "compression_ratio": ratio, "allow_partial": partial}
        try:
            for progress in answer_stream(pipe, video, questions, **settings):
                yield outputs(questions, progress)
        except ValueError as error:
            text = without_folders(error, video)
            yield outputs(questions, Progress(text))  # stays when the error's own box has gone
            raise error_box(text) from error

    with gr.Blocks(title="Video-XL", analytics_enabled=False, delete_cache=UPLOADS_KEPT) as app:
        gr.Markdown(introduction(pipe))
        with gr.Row():
            with gr.Column():
                inputs = input_boxes(pipe.model.config)
                with gr.Row():
                    ask_button = gr.Button("Ask", variant="primary")
                    stop_button = gr.Button("Stop")
                gr.Examples(example_rows(), inputs[:2], cache_examples=False, api_visibility="private")
            with gr.Column():
                boxes = output_boxes()
        status, answer, *_ = boxes
        asked = ask_button.click(
            on_gpu(ask),
            inputs,
            boxes,
            api_name="ask",
            show_progress="minimal",
            show_progress_on=answer,
            concurrency_limit=1,
        )
        stopped = stop_button.click(None, cancels=[asked])
        stopped.then(lambda: "Stopped.", None, status, api_visibility="private", show_progress="hidden")
    return app.queue(max_size=16)


def input_boxes(config: Any) -> list[gr.components.Component]:
    """Video, question, frames, ratio, partial: what `/ask` takes."""
    video = gr.Video(label="Video", sources=["upload"], include_audio=True, height=260)
    question = gr.Textbox(
        label="Question",
        info="Several: leave an empty line between them. One compression of the video answers them all; "
        "the next Ask reads and compresses it anew.",
        lines=3,
        max_length=MAX_QUESTIONS * MAX_QUESTION_LENGTH,
    )
    with gr.Row():
        frames = gr.Slider(1, MAX_FRAMES, DEFAULT_FRAMES, step=1, precision=0, label="Frames", info="Evenly spaced.")
        ratio = gr.Radio(
            ratio_choices(config),
            value=config.default_compression_ratio,
            label="Compression ratio",
            info="Visual tokens per summary token kept.",
        )
    partial = gr.Checkbox(label="Read what can be read of a damaged file (allow_partial)")
    return [video, question, frames, ratio, partial]


def output_boxes() -> list[gr.components.Component]:
    """Status, answer, what was kept in words and as a table: what `/ask` gives."""
    status = gr.Textbox(label="Progress", lines=2, interactive=False)
    answer = gr.Textbox(label="Answer", lines=8, max_lines=14, interactive=False, buttons=["copy"])
    memory = gr.Textbox(label="What was kept", lines=2, interactive=False)
    kept = gr.Dataframe(
        headers=["Kept per layer", "Tokens"],
        datatype=["str", "number"],
        column_widths=["75%", "25%"],
        buttons=[],
        interactive=False,
    )
    return [status, answer, memory, kept]


def introduction(pipe: Any) -> str:
    """What the page begins with, in Markdown."""
    model = html.escape(Path(pipe.model.config.name_or_path).name)
    lines = [
        "# Video-XL",
        "Ask about a video. The language model itself compresses what it sees, window by window, into the keys and "
        "values of a few summary tokens, and answers from these. It also reads videos that your browser cannot play.",
        f"Model: <code>{model}</code>",
    ]
    if model == FOLDER.name:
        lines.append(
            "It is small and knows one world: cards with letters, numbers and symbols, advertisements and broken "
            "frames in films. Asked for anything else, it makes something up."
        )
    return "\n\n".join(lines)


def ratio_choices(config: Any) -> list[tuple[str, int]]:
    """The ratios that the model was trained with, its default, and none."""
    ratios = sorted({*config.text_config.beacon_ratio, config.default_compression_ratio, 0})
    return [(str(ratio) if ratio else "0 (keep all)", ratio) for ratio in ratios]


def example_rows() -> list[list[str]]:
    """A film drawn on the spot, and those of the films in the installed gradio package that are there."""
    drawn = make_drawn_film(0, Path(tempfile.mkdtemp(prefix="videoxl_")) / "drawn.mp4")
    folder = Path(gr.__file__).parent / "media_assets" / "videos"
    there = [[str(folder / name), question] for name, question in EXAMPLES if (folder / name).is_file()]
    return [[str(drawn.path), "\n\n".join(question.text for question in drawn.questions)], *there]


def split_questions(text: str | None) -> list[str]:
    """
    The questions in a text, where empty lines separate them.

    Raises:
        gr.Error: if there is none, or too many, or one is too long.
    """
    paragraphs = [[]]
    for line in (text or "").splitlines():
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    questions = ["\n".join(lines).strip() for lines in paragraphs if lines]
    if not questions:
        raise error_box("Write a question first.")
    if len(questions) > MAX_QUESTIONS:
        raise error_box(f"{len(questions)} questions: ask at most {MAX_QUESTIONS} at once.")
    if (longest := max(map(len, questions))) > MAX_QUESTION_LENGTH:
        raise error_box(f"A question of {longest} characters: at most {MAX_QUESTION_LENGTH} are taken.")
    return questions


def without_folders(error: ValueError, video: str) -> str:
    """The error's text, which names the file without the server's folders."""
    return str(error).replace(video, Path(video).name)


def error_box(text: str) -> gr.Error:
    """An error that the user sees. Gradio would render HTML in it, such as a file's name may hold."""
    return gr.Error(html.escape(text, quote=False), print_exception=False)


def outputs(questions: Sequence[str], progress: Progress) -> tuple[str, str, str, list[list]]:
    """What the four boxes show."""
    if len(questions) == 1:
        answer = "".join(progress.answers)
    else:
        answer = "\n\n".join(f"{asked}\n→ {answer}" for asked, answer in zip(questions, progress.answers))
    if progress.memory is None:
        return progress.status, answer, "", []
    table = [[words, progress.memory["kept"][kind]] for kind, words in KINDS.items()]
    return progress.status, answer, progress.memory["text"], table


def on_gpu(function: Any) -> Any:
    """On ZeroGPU hardware of a Space the function holds a GPU while it runs; elsewhere nothing changes."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


def launch(app: gr.Blocks, **settings: Any) -> tuple[Any, str, str]:
    """Starts the server, `settings` as in gradio's `launch`."""
    return app.launch(theme=THEME, max_file_size=MAX_FILE_SIZE, footer_links=["api", "settings"], **settings)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Serves the app until it is interrupted.

    Returns:
        `int`: 0; 1 if the model cannot be loaded, which standard error tells.
    """
    parser = argparse.ArgumentParser(prog="python -m videoxl.spaces_demo", description="The Video-XL app.")
    parser.add_argument(
        "--model",
        default=os.environ.get(MODEL_VARIABLE),
        help=f"folder or Hub id of a checkpoint (default: ${MODEL_VARIABLE}, or else the one that comes with videoxl)",
    )
    parser.add_argument("--port", type=int, help="port to serve at (default: the first free one from 7860 on)")
    arguments = parser.parse_args(argv)
    try:
        app = build_app(load_pipeline(arguments.model))
    except (ValueError, OSError) as error:
        print(f"videoxl.spaces_demo: {error}", file=sys.stderr)
        return 1
    launch(app, server_port=arguments.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
