"""A progress bar in a terminal, plain lines elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nipype_blm.stages.progress import listening

_LABELS = {"images": "reading images", "voxels": "fitting voxels"}


class ProgressBar:
    """Shows how many images are read and voxels fitted while its context lasts.

    Parameters
    ----------
    totals : mapping of str to int
        ``images`` and ``voxels`` to be done.
    quiet : bool
        Show nothing.
    """

    def __init__(self, totals: dict[str, int], quiet: bool = False) -> None:
        self._totals = totals
        self._done = dict.fromkeys(totals, 0)
        console = Console(stderr=True)
        self._plain = not quiet and not console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or self._plain,
        )
        self._listening = listening(self._advance)

    def __enter__(self) -> "ProgressBar":
        self._listening.__enter__()
        self._progress.start()
        self._tasks = {
            what: self._progress.add_task(_LABELS[what], total=total)
            for what, total in self._totals.items()
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._listening.__exit__(kind, error, traceback)

    def _advance(self, what: str, n: int) -> None:
        before, total = self._done[what], self._totals[what]
        self._done[what] += n
        self._progress.update(self._tasks[what], advance=n)
        # One line for each tenth.
        if self._plain and 10 * self._done[what] // total > 10 * before // total:
            print(f"{_LABELS[what]}: {self._done[what]} of {total}", file=sys.stderr, flush=True)
