"""Run a command with one thread and write where its CPU time goes.

``sample_cpu.py CONFIG OUT blm|blmm``

A timer of CPU time interrupts the main thread.  The time since the last interruption counts for
the innermost function of this package on the stack, and for imports if one is going on.
"""

import collections
import signal
import sys
import time
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.001

taken: collections.Counter[str] = collections.Counter()
last = time.process_time()


def find_owner(frame: FrameType | None) -> str:
    """Return who a stack works for."""
    importing = False
    while frame is not None:
        path = frame.f_code.co_filename
        if "importlib" in path:
            importing = True
        elif ("nipype_blm/" in path or "/workflows/blm" in path) and "_jit" not in path:
            module = "/".join(Path(path).parts[-2:])
            return f"{'imports of' if importing else frame.f_code.co_qualname + ' in'} {module}"
        frame = frame.f_back
    return "other packages"


def count(_: int, frame: FrameType | None) -> None:
    global last
    now = time.process_time()
    taken[find_owner(frame)] += round((now - last) * 1e6)
    last = now


def main(config: str, out: str, command: str) -> None:
    signal.signal(signal.SIGPROF, count)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)
    from nipype_blm.cli.blm import main as run_blm

    run_blm([config, "--quiet"], command)
    signal.setitimer(signal.ITIMER_PROF, 0)
    total = time.process_time()
    lines = [f"{seconds / 1e6:7.3f} s  {name}" for name, seconds in taken.most_common(40)]
    Path(out).write_text(f"{total:7.3f} s  CPU in all\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
