"""Note what a command took, for the report."""

import os
import resource
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from nipype_blm import __version__
from nipype_blm.cli.progress import NodeCallback
from nipype_blm.errors import InputError
from nipype_blm.machine import count_cores
from nipype_blm.results.results import Results
from nipype_blm.results.steps import Step, TimedNode, add_step

_KIB = 1024  # what the system counts memory in


class Recorder:
    """Notes when nodes start and end."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._starts: dict[str, float] = {}
        self.nodes: list[TimedNode] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._begin

    def listen(self, note_node: NodeCallback) -> NodeCallback:
        """Return a callback that notes, and calls another one."""

        def note(node: Any, status: str) -> None:
            name = str(getattr(node, "name", node))
            if status == "start":
                self._starts[name] = self.elapsed
            elif name in self._starts:
                self.nodes.append(TimedNode(name, self._starts.pop(name), self.elapsed))
            note_node(node, status)

        return note


@contextmanager
def recording(
    folder: Path, name: str, plugin: str | None = None, anew: bool = False
) -> Iterator[Recorder]:
    """Note a step of a folder of results, if it ends well.

    Parameters
    ----------
    folder : Path
    name : str
        Of the step.
    plugin : str, optional
        What runs the nodes.
    anew : bool
        Whether the results replace others.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    recorder, cpu = Recorder(), _measure_cpu()
    yield recorder
    step = Step(
        name=name,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        started=started,
        wall_s=round(recorder.elapsed, 2),
        cpu_s=round(_measure_cpu() - cpu, 2),
        peak_bytes=_measure_memory(),
        host=socket.gethostname(),
        n_cores=count_cores(),
        version=__version__,
        plugin=plugin or "",
        nodes=tuple(TimedNode(n.name, round(n.start, 2), round(n.end, 2)) for n in recorder.nodes),
        model=_find_stamp(folder),
    )
    add_step(folder, step, anew)


def _find_stamp(folder: Path) -> str:
    """Return which results are in a folder now; empty where they cannot be read."""
    try:
        return Results(folder).stamp
    except (InputError, OSError):
        return ""


def _measure_cpu() -> float:
    """Return the CPU seconds of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def _measure_memory() -> int:
    """Return the most bytes that this process held, or one of its children."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * _KIB
