"""A progress bar in a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nipype_blm.stages.progress import Listener, listening

_LABELS = {"images": "reading images", "voxels": "fitting voxels"}


@contextmanager
def show_progress(totals: dict[str, int], quiet: bool = False) -> Iterator[None]:
    """Show how many images are read and voxels fitted while the context lasts.

    Parameters
    ----------
    totals : mapping of str to int
        ``images`` and ``voxels`` to be done.
    quiet : bool
        Show nothing.
    """
    console = Console(stderr=True)
    if quiet:
        yield
    elif not console.is_terminal:
        with listening(_print_lines(totals)):
            yield
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            tasks = {what: progress.add_task(_LABELS[what], total=n) for what, n in totals.items()}
            with listening(lambda what, n: progress.update(tasks[what], advance=n)):
                yield


def _print_lines(totals: dict[str, int]) -> Listener:
    """Return a listener that prints one line for each tenth that is done."""
    done = dict.fromkeys(totals, 0)

    def advance(what: str, n: int) -> None:
        before, total = done[what], totals[what]
        done[what] += n
        if 10 * done[what] // total > 10 * before // total:
            print(f"{_LABELS[what]}: {done[what]} of {total}", file=sys.stderr, flush=True)

    return advance
