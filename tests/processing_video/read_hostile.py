"""Reads videos one by one, each within 10 seconds or the process dies: `python read_hostile.py RESULTS FILE...`.

The seconds are the processor's, as other tests run beside; who waits for something dies after a minute.

For every file one line of JSON: the error, or the indices of the frames, of which the pixels go to RESULTS/N.npz.
"""

import json
import resource
import signal
import sys

import numpy as np

from videoxl.processing.video_processing_videoxl import VideoXLVideoProcessor
from videoxl.processing.video_reading_videoxl import VideoDecodeError


def main(results: str, paths: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    processor = VideoXLVideoProcessor()
    for number, path in enumerate(paths):
        signal.setitimer(signal.ITIMER_PROF, 10)
        signal.alarm(60)
        try:
            batch = processor(path, num_frames=6)
        except VideoDecodeError as error:
            print(json.dumps({"path": path, "error": str(error)}), flush=True)
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        np.save(f"{results}/{number}.npy", batch["pixel_values_videos"][0].numpy())
        print(json.dumps({"path": path, "indices": batch["video_metadata"][0].frames_indices}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
