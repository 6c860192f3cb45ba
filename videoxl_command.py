"""Where the `videoxl` command starts: outside of the package, whose import loads torch."""

import os


def main() -> int:
    # OpenMP's threads spin while they wait, against other processes on the same cores: an evaluation beside a training
    # run took 278 s so, and 19 s without. OpenMP reads this when torch loads it, and a library must not set it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from videoxl.cli import main as run

    return run()
