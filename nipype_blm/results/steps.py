"""How a folder of results came about: a line of JSON for each command that has written to it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FILE = ".nipype_blm_steps.jsonl"


class TimedNode(NamedTuple):
    """One node of a workflow, as the command saw it."""

    name: str
    start: float  # seconds since the step began
    end: float


class Step(NamedTuple):
    """What one command did."""

    name: str  # fit, diagnose or infer
    command: str  # as it was typed
    started: str  # date and time with its zone, ISO 8601
    wall_s: float
    cpu_s: float  # of the process, and of those of its own on the same machine
    peak_bytes: int  # memory of the largest of them
    host: str
    n_cores: int
    version: str  # of nipype_blm
    plugin: str = ""  # of Nipype, if not the usual one
    nodes: tuple[TimedNode, ...] = ()
    model: str = ""  # `Results.stamp` of the results that it left; empty of earlier versions


def add_step(folder: Path, step: Step, anew: bool = False) -> None:
    """Note a step in a folder of results; where nothing can be written nothing is noted.

    Parameters
    ----------
    anew : bool
        Whether this is the first step of results that replace others.
    """
    line = json.dumps(step._asdict()) + "\n"
    with (
        suppress(OSError),
        (folder / FILE).open("w" if anew else "a", encoding="utf-8", errors="replace") as file,
    ):
        file.write(line)


def read_steps(folder: Path) -> list[Step]:
    """Return the steps of a folder of results, the first one first; lines cut off are left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    steps = []
    for line in lines:
        with suppress(ValueError, TypeError):
            step = Step(**json.loads(line))
            steps.append(step._replace(nodes=tuple(TimedNode(*node) for node in step.nodes)))
    return steps
