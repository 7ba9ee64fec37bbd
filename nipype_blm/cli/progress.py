"""A progress bar in a terminal, plain lines elsewhere."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from nipype_blm.cli.terminal import Unfailing, steady_streams
from nipype_blm.progress import ANNOUNCE, COMPILING, describe_compiling, listening
from nipype_blm.signals import is_interrupted

_LABELS = {
    "images": "reading images",
    "voxels": "fitting voxels",
    "resamplings": "resampling",
    "commands": "running commands",
    "registrations": "registering",
    "blocks": "running blocks",
    "astrocytes": "growing astrocytes",
    "MiB": "reading MiB",
}
_EARLIER = {"images": "read", "voxels": "fitted"}  # others are done
_OF_NODES = {
    **{"products": "images", "estimates": "voxels"},
    **{"tiles": "images", "scores": "voxels", "nulls": "resamplings"},
}
_NARROWEST = 50  # columns that a bar and its numbers need

# Called as (node, status), with "start", "end" or "exception".
NodeCallback = Callable[[Any, str], None]


class Work(Protocol):
    """Images, voxels and resamplings to be done, such as `stages.remains.Remains`."""

    n_images: list[int]  # of each batch
    n_resamplings: list[int]  # of each task, of all contrasts together

    def find_batches(self) -> set[int]:
        """Return the batches that are done already."""

    def find_blocks(self) -> set[int]:
        """Return the blocks that are done already."""

    def count_voxels(self) -> list[int]:
        """Return the voxels of each block."""


@dataclass
class NewWork:
    """`Work` of which nothing is known to be done already."""

    n_images: list[int]
    n_voxels: list[int]  # of each block
    n_resamplings: list[int] = field(default_factory=list)

    def find_batches(self) -> set[int]:
        """Return no batch."""
        return set()

    def find_blocks(self) -> set[int]:
        """Return no block."""
        return set()

    def count_voxels(self) -> list[int]:
        """Return the voxels of each block."""
        return self.n_voxels


class Counted(NamedTuple):
    """Things of one kind to be done, and how many of them an earlier run has done."""

    what: str  # of `_LABELS`
    n: int = 0
    n_done: int = 0
    later: Callable[[], tuple[int, int]] | None = None  # says both, once the first is done


class _Nodes:
    """How many nodes run, are done and have failed."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def note(self, status: str) -> None:
        self._counts[status] += 1

    def __str__(self) -> str:
        done, failed = self._counts["end"], self._counts["exception"]
        running = max(0, self._counts["start"] - done - failed)
        return f"nodes: {done} done, {running} running, {failed} failed"


class _Amount:
    """How much is done of what comes in several parts.

    Nodes that run here, or on workers of ours, tell of each image; of others it is known when they
    end.  What a lost worker had done is told twice.
    """

    def __init__(self, parts: list[int], found: set[int]) -> None:
        self.parts = parts
        self._found, self._ended = found, set(found)
        self._told = 0

    @property
    def found(self) -> int:
        """How much an earlier run has done."""
        return sum(self.parts[i] for i in self._found)

    @property
    def total(self) -> int:
        return sum(self.parts)

    @property
    def done(self) -> int:
        ended = sum(self.parts[i] for i in self._ended)
        return min(max(self.found + self._told, ended), self.total)

    def tell(self, n: int) -> None:
        """Note that `n` more are done."""
        self._told += n

    def end(self, part: int | None) -> None:
        """Note that a part is done, or all of them."""
        self._ended |= set(range(len(self.parts))) if part is None else {part}


class _Progress:
    """What is known of a run; subclasses show it."""

    def __init__(self, work: Work | Sequence[Counted] | None) -> None:
        self.nodes = _Nodes()
        self._work = None if isinstance(work, Sequence) else work
        self._compiled: set[str] = set()
        self._later: dict[str, Callable[[], tuple[int, int]]] = {}
        self.amounts: dict[str, _Amount] = {}
        if isinstance(work, Sequence):
            for what, n, n_done, later in work:
                if later is None:
                    self._add_counted(what, n, n_done)
                else:
                    self._later[what] = later
        elif work is not None:
            self._add("images", _Amount(work.n_images, work.find_batches()))
            blocks = work.find_blocks()
            if blocks:
                self._add("voxels", _Amount(work.count_voxels(), blocks))
            if work.n_resamplings:
                self._add("resamplings", _Amount(work.n_resamplings, set()))

    def _add_counted(self, what: str, n: int, n_done: int) -> None:
        self._add(what, _Amount([n_done, n - n_done], {0} if n_done else set()))

    def _add(self, what: str, amount: _Amount) -> None:
        self.amounts[what] = amount
        self.begin(what, amount)

    def note_node(self, node: Any, status: str) -> None:
        """Note that a node starts or ends; what is interrupted does neither end nor fail."""
        if is_interrupted():
            return
        self.nodes.note(status)
        name = re.fullmatch(rf"_?({'|'.join(_OF_NODES)})(\d*)", str(getattr(node, "name", "")))
        if name and status == "end":
            what, number = _OF_NODES[name[1]], name[2]
            self._find(what)
            if what in self.amounts:
                self.amounts[what].end(int(number) if number else None)
                self.show(what, self.amounts[what])
            if what == "images" and not number:
                self._find("voxels")
        self.show_nodes(status)

    def note_amount(self, what: str, n: int) -> None:
        """Note that something is done, or compiled."""
        if what.startswith(COMPILING):
            if what not in self._compiled:  # each worker tells so
                self._compiled.add(what)
                self.say(describe_compiling(what, n))
            return
        self._find(what)
        if what in self.amounts:
            self.amounts[what].tell(n)
            self.show(what, self.amounts[what])

    def _find(self, what: str) -> None:
        """Ask how many voxels have data, or how much else there is, as soon as that is known."""
        if what in self._later:
            self._add_counted(what, *self._later.pop(what)())
        if what == "voxels" and what not in self.amounts and self._work is not None:
            self._add(what, _Amount(self._work.count_voxels(), self._work.find_blocks()))

    def begin(self, what: str, amount: _Amount) -> None:
        """Show how much there is to be done."""

    def show(self, what: str, amount: _Amount) -> None:
        """Show how much is done."""

    def show_nodes(self, status: str) -> None:
        """Show how many nodes run and have ended."""

    def say(self, text: str) -> None:
        """Show a line."""


class _Lines(_Progress):
    """Prints a line for each tenth that is done, and for each node that has ended."""

    def __init__(self, work: Work | Sequence[Counted] | None) -> None:
        self._tenths: Counter[str] = Counter()
        super().__init__(work)

    def begin(self, what: str, amount: _Amount) -> None:
        if amount.found:
            self._tenths[what] = 10 * amount.found // amount.total
            done = f"{what} {_EARLIER.get(what, 'done')} by an earlier run"
            self.say(f"{done}: {amount.found} of {amount.total}")

    def show(self, what: str, amount: _Amount) -> None:
        tenths = 10 * amount.done // max(amount.total, 1)
        if tenths > self._tenths[what]:
            self._tenths[what] = tenths
            self.say(f"{_LABELS[what]}: {amount.done} of {amount.total}")

    def show_nodes(self, status: str) -> None:
        if status != "start":
            self.say(str(self.nodes))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Display(Progress):
    """Bars, and a line about nodes below them, whose number is not known beforehand."""

    line = Text()

    def get_renderables(self) -> Iterator[Any]:
        """Return what is drawn."""
        yield from super().get_renderables()
        yield self.line


class _Bars(_Progress):
    """Draws a bar for what is done."""

    def __init__(self, work: Work | Sequence[Counted] | None, display: _Display) -> None:
        self._display = display
        self._tasks: dict[str, Any] = {}
        super().__init__(work)

    def begin(self, what: str, amount: _Amount) -> None:
        self._tasks[what] = self._display.add_task(_LABELS[what], total=amount.total)
        self.show(what, amount)

    def show(self, what: str, amount: _Amount) -> None:
        self._display.update(self._tasks[what], completed=amount.done, total=amount.total)

    def show_nodes(self, status: str) -> None:
        self._display.line = Text(str(self.nodes), no_wrap=True, overflow="ellipsis")

    def say(self, text: str) -> None:
        self._display.console.print(text, highlight=False, markup=False)


@contextmanager
def show_progress(
    work: Work | Counted | Sequence[Counted] | None = None, quiet: bool = False
) -> Iterator[NodeCallback]:
    """Show how much is done, and how many nodes run, while the context lasts.

    Parameters
    ----------
    work : Work, Counted or list of Counted, optional
        Images, voxels and resamplings, or things of other kinds, to be done.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        The `status_callback` of a plugin of Nipype.
    """
    if isinstance(work, Counted):
        work = [work]
    # Its control characters are meant; those of what others print meanwhile are not.
    stream: Any = Unfailing(getattr(sys.stderr, "unescaped", sys.stderr))
    console = Console(file=stream)
    if quiet:
        silent = _Progress(None)
        with listening(silent.note_amount):
            yield silent.note_node
        return
    with _announcing():
        if not console.is_terminal or console.width < _NARROWEST:
            lines = _Lines(work)
            with listening(lines.note_amount):
                yield lines.note_node
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with _Display(*columns, console=console) as display, steady_streams():
            bars = _Bars(work, display)
            with listening(bars.note_amount):
                yield bars.note_node


@contextmanager
def _announcing() -> Iterator[None]:
    """Have processes of this machine say what they compile."""
    os.environ[ANNOUNCE] = "1"
    try:
        yield
    finally:
        del os.environ[ANNOUNCE]
