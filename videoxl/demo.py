"""The demo: two questions about a real video, two about one that is drawn on the spot, answered by the pipeline."""

import importlib.util
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

REAL_VIDEO = "gradio/media_assets/videos/world.mp4"
REAL_QUESTIONS = ("What happens in this video?", "Does this video contain any inserted advertisement?")
DRAWN_QUESTIONS = ("Which colour is the ball?", "How many times does the ball bounce?")
DRAWN_SECONDS, DRAWN_RATE, DRAWN_SIZE = 12, 25, (320, 180)


def find_real_video() -> Path:
    """
    A film that nobody here drew: 30 s, 480 x 270, among the installed gradio package's files.

    Raises:
        ValueError: if gradio is not installed, or ships no such film any more.
    """
    package = importlib.util.find_spec("gradio")  # found, not imported: that alone takes seconds
    places = package.submodule_search_locations if package is not None else []
    for place in places:
        film = Path(place).parent / REAL_VIDEO
        if film.is_file():
            return film
    raise ValueError(
        f"the demo looks at {REAL_VIDEO}, which comes with gradio: install videoxl[demo], or ask about a video of "
        "yours with `videoxl ask FILE QUESTION`."
    )


def draw_video(path: str | Path) -> None:
    """Draws a red ball that bounces over a horizon whose light changes: 12 s at 25 frames a second, H.264."""
    import av

    width, height = DRAWN_SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=DRAWN_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(DRAWN_SECONDS * DRAWN_RATE):
            time = index / DRAWN_RATE
            light = 0.6 + 0.4 * math.sin(time / 2)
            frame = np.empty((height, width, 3), np.uint8)
            frame[:] = np.where((rows < 120)[..., None], (90, 150, 230), (60, 140, 70)) * light  # sky, meadow
            ball = 110 - 80 * abs(math.sin(2 * time))
            near = (rows - ball) ** 2 + (columns - (time * 40) % width) ** 2 < 14**2
            frame[near] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def print_answers(answers: Sequence[dict], tokens_per_frame: int) -> None:
    """Prints what was asked and answered about one video, what was kept of it, and the seconds per stage."""
    memory = answers[0]["memory"]
    seconds = {**answers[0]["seconds"], "answer": sum(answer["seconds"]["answer"] for answer in answers)}
    visual, kept = memory["visual_tokens_seen"], memory["kept"]
    print(f"{answers[0]['video']}")
    print(f"  frames         {visual // tokens_per_frame}")
    print(f"  visual tokens  {visual}")
    print(f"  kept           {kept['beacons'] + kept['visual']} of them, {memory['bytes'] / 1e6:.2f} MB with all text")
    print(f"  ratio          {memory['compression']:.1f}" if memory["compression"] else "  ratio          -")
    print("  seconds        " + ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items()))
    for answer in answers:
        print(f"  Q: {answer['question']}")
        print(f"  A: {answer['answer']}")
    print()


def run_demo(pipe, model: str, random_weights: bool) -> None:
    """
    Answers questions about both films, and prints everything.

    Args:
        pipe: the pipeline.
        model: what it was loaded from.
        random_weights: whether to say that they are.
    """
    parameters = sum(parameter.numel() for parameter in pipe.model.parameters())
    print(f"Model: {model}, {parameters / 1e6:.1f} M parameters.")
    if random_weights:
        print(
            "Its weights are RANDOM: the answers below are gibberish, just what the authors' code would make of the "
            "same weights. All else is real: the films, the frames, the compression, the times."
        )
    print()
    settings = {"max_new_tokens": 24, "return_memory": True, "return_seconds": True}
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "drawn_on_the_spot.mp4"
        draw_video(drawn)
        films = ((find_real_video(), 64, REAL_QUESTIONS), (drawn, 48, DRAWN_QUESTIONS))
        for film, frames, questions in films:
            answers = pipe(video=str(film), question=list(questions), num_frames=frames, **settings)
            print_answers(answers, pipe.processor.tokens_per_frame)
    print("Your turn:  videoxl ask FILE QUESTION... --model " + model)
