"""A progress bar in a terminal, plain lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nipype_blm.cli.terminal import Unfailing, steady_streams
from nipype_blm.progress import Listener, listening

_LABELS = {"images": "reading images", "voxels": "fitting voxels"}

# Called as (node, status), with "start", "end" or "exception".
NodeCallback = Callable[[Any, str], None]


class _Nodes:
    """How many nodes run, are done and have failed."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def note(self, status: str) -> None:
        self._counts[status] += 1

    @property
    def n_ended(self) -> int:
        """How many nodes are over."""
        return self._counts["end"] + self._counts["exception"]

    def __str__(self) -> str:
        done, failed = self._counts["end"], self._counts["exception"]
        running = max(0, self._counts["start"] - self.n_ended)
        return f"nodes: {done} done, {running} running, {failed} failed"


@contextmanager
def show_progress(totals: dict[str, int], quiet: bool = False) -> Iterator[NodeCallback]:
    """Show how many images are read, voxels fitted and nodes run while the context lasts.

    Parameters
    ----------
    totals : mapping of str to int
        ``images`` and ``voxels`` to be done.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        The `status_callback` of a plugin of Nipype.
    """
    # Its control characters are meant; those of what others print meanwhile are not.
    stream: Any = Unfailing(getattr(sys.stderr, "unescaped", sys.stderr))
    console = Console(file=stream)
    nodes = _Nodes()
    if quiet:
        yield lambda node, status: None
    elif not console.is_terminal:
        with listening(_print_lines(totals)):
            yield lambda node, status: _print_node(nodes, status)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress, steady_streams():
            # What is cached never starts, and plugins that submit jobs tell of nodes only.
            tasks = {
                what: progress.add_task(_LABELS[what], total=n, visible=False)
                for what, n in totals.items()
            }
            row = progress.add_task(str(nodes), total=None)

            def show_node(_: Any, status: str) -> None:
                nodes.note(status)
                progress.update(row, description=str(nodes), completed=nodes.n_ended)

            def show_amount(what: str, n: int) -> None:
                progress.update(tasks[what], advance=n, visible=True)

            with listening(show_amount):
                yield show_node


def _print_node(nodes: _Nodes, status: str) -> None:
    """Print a line when a node has ended."""
    nodes.note(status)
    if status != "start":
        print(nodes, file=sys.stderr, flush=True)


def _print_lines(totals: dict[str, int]) -> Listener:
    """Return a listener that prints one line for each tenth that is done."""
    done = dict.fromkeys(totals, 0)

    def advance(what: str, n: int) -> None:
        before, total = done[what], totals[what]
        done[what] += n
        if 10 * done[what] // total > 10 * before // total:
            print(f"{_LABELS[what]}: {done[what]} of {total}", file=sys.stderr, flush=True)

    return advance
