"""Read blocks, call the function on each, and keep what it returns."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from traceback import format_exception
from typing import Any

from numpy.typing import NDArray

from nipype_blm.blockmap.blocks import Block
from nipype_blm.blockmap.functions import Record, Returned, ReturnError, call, place_records
from nipype_blm.blockmap.journal import (
    DONE,
    SKIPPED,
    Ended,
    History,
    format_end,
    format_failure,
    format_start,
    name_host,
)
from nipype_blm.blockmap.outputs import LARGEST_ITEM, Learned
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.retrying import ReadError, WriteError, read_with_retries, retry
from nipype_blm.blockmap.tokens import redact
from nipype_blm.blockmap.values import Writer
from nipype_blm.errors import InputError, count, shorten
from nipype_blm.progress import advance
from nipype_blm.tasks.journal import LineWriter
from nipype_blm.tasks.runner import is_ending

MIB = 2**20
UNIT, VOLUME = "blocks", "MiB"
# A block whose worker is lost this often is taken for the reason, and skipped.
MOST_LOSSES = 2
_HERE = Path(__file__).parent


class BlockError(RuntimeError):
    """A function has failed on a block, and nothing is to be skipped."""


class SkippedError(RuntimeError):
    """More blocks were skipped than may be."""


_ENDING = (ReadError, WriteError, BlockError)  # the run


class Worker:
    """Computes blocks one after the other, in one process.

    Parameters
    ----------
    plan : Plan
    learned : Learned or None
        What the function returns for each block; None: the first one tells.
    create : callable, optional
        Makes, of what the function has returned for the first block, what all are written to.
    """

    def __init__(
        self,
        plan: Plan,
        learned: Learned | None,
        create: Callable[[Returned], Learned] | None = None,
    ) -> None:
        self._plan, self.learned, self._create = plan, learned, create
        self._channels = retry(
            plan.open_channels, "The channels could not be opened", ReadError, plan.config
        )
        self._writer = None if learned is None else Writer(plan, learned.outputs)
        # Blocks for which the function has returned nothing, before it is known what it returns.
        self._without: list[Ended] = []
        self._names = list(learned.outputs if learned else plan.config.outputs or {})

    def read(self, block: Block) -> dict[str, NDArray[Any]]:
        """Return the voxels of a block in all channels.

        Raises
        ------
        ReadError
            If that fails after all retries.
        InputError
            If it makes no sense to try again.
        """
        start, stop = block.read_start, block.read_stop
        return {
            name: read_with_retries(channel, start, stop, self._plan.config)
            for name, channel in self._channels.items()
        }

    def call(self, data: Mapping[str, NDArray[Any]], block: Block) -> Returned:
        """Return what the function gives for a block.

        Raises
        ------
        Exception
            Of the function, or `ReturnError`.
        """
        plan = self._plan
        found = call(plan.function, data, block, plan.config.arguments, self._names)
        if self._writer is None or is_nothing(found):
            return found
        return found._replace(arrays=self._writer.check(found.arrays, block))

    def compute(self, index: int, lines: LineWriter) -> Ended:
        """Compute a block, and note how it has ended.

        Raises
        ------
        ReadError, WriteError, BlockError
            If nothing is to be skipped.
        OSError
            If a disk does not take it.
        """
        block = self._plan.grid[index]
        lines.write(format_start(index, block.key))
        try:
            ended, records = self._compute(index, block)
        except BaseException as error:
            # Else its worker would be taken for lost.
            with suppress(OSError):
                lines.write(format_failure(index, error, redact(str(error))))
            raise
        if ended.state == DONE and self._writer is None:
            # Noted later: if this run is killed now, nobody knows what it has to be written to.
            self._without.append(ended)
        else:
            self._note_without(lines)
            lines.write(format_end(ended, records))
        return ended

    def learn_nothing(self, lines: LineWriter) -> Learned:
        """Take it that the function returns nothing, as for all blocks so far."""
        self._writer, _ = self._learn(Returned({}, [], False), self._plan.grid[0])
        self._note_without(lines)
        assert self.learned is not None
        return self.learned

    def _note_without(self, lines: LineWriter) -> None:
        if self._writer is None:
            return
        for ended in self._without:
            self._writer.write({}, self._plan.grid[ended.number])
            lines.write(format_end(ended))
        self._without.clear()

    def _compute(self, index: int, block: Block) -> tuple[Ended, list[Record] | None]:
        start = time.monotonic()
        tried = self.attempt(index, block)
        if isinstance(tried, Ended):
            return tried, None
        returned, n_bytes = tried
        if self._writer is None and not is_nothing(returned):
            self._writer, returned = self._learn(returned, block)
        if self._writer is not None:
            self._writer.write(returned.arrays, block)
        seconds = round(time.monotonic() - start, 4)
        ended = Ended(index, block.key, DONE, seconds, name_host(), n_bytes)
        return ended, self._place(returned, block)

    def _learn(self, returned: Returned, block: Block) -> tuple[Writer, Returned]:
        assert self._create is not None
        asked = self._plan.config.outputs or {}
        for name, values in returned.arrays.items():
            is_given = name in asked and asked[name].dtype is not None
            if not is_given and (values.dtype.kind not in "biuf" or values.itemsize > LARGEST_ITEM):
                raise InputError(
                    f"Block {block.key}: {name} is an array of {values.dtype}; expected whole or "
                    "real numbers of at most 64 bits."
                )
        self.learned = self._create(returned)
        writer = Writer(self._plan, self.learned.outputs)
        try:
            return writer, returned._replace(arrays=writer.check(returned.arrays, block))
        except ReturnError as error:
            raise InputError(f"Block {block.key}: {error}.") from error

    def _place(self, returned: Returned, block: Block) -> list[Record] | None:
        """Return records with their places; None if the function has no table."""
        has_table = returned.has_records or (self.learned is not None and self.learned.has_records)
        return place_records(returned.records, block) if has_table else None

    def attempt(self, index: int, block: Block) -> tuple[Returned, int] | Ended:
        """Return what the function gives and the bytes read; or why the block is skipped.

        Raises
        ------
        ReadError, BlockError
            If nothing is to be skipped.
        """
        config, start = self._plan.config, time.monotonic()
        try:
            data = self.read(block)
        except ReadError as error:
            if config.on_read_error == "stop":
                raise
            return _note_skipped(index, block, time.monotonic() - start, str(error), "")
        n_bytes = sum(each.nbytes for each in data.values())
        try:
            return self.call(data, block), n_bytes
        except (Exception, SystemExit) as error:
            # Before it is shortened: half a token would be taken for none.
            said = redact(f"{type(error).__name__}: {error}").strip().rstrip(":")
            traceback = redact("".join(format_exception(_drop_own_frames(error))))
            if config.on_error == "stop":
                raise BlockError(
                    f"The function has failed on block {block.key}, and on_error is stop:\n"
                    f"{traceback}"
                ) from None
            return _note_skipped(index, block, time.monotonic() - start, said, traceback)


def is_nothing(returned: Returned) -> bool:
    """Return whether a function has returned neither arrays nor a table."""
    return not returned.arrays and not returned.has_records


def _drop_own_frames(error: BaseException) -> BaseException:
    """Return an error whose traceback begins in the function, if it comes from there."""
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).parent == _HERE:
        frame = frame.tb_next
    return error.with_traceback(frame)


def _note_skipped(index: int, block: Block, seconds: float, said: str, traceback: str) -> Ended:
    """Return what is noted of a block that is skipped."""
    line = shorten(" ".join(said.split()), 300)
    return Ended(index, block.key, SKIPPED, round(seconds, 4), name_host(), 0, line, traceback)


def compute_bundle(plan: Plan, indices: Sequence[int], journal: Path) -> None:
    """Compute some blocks one after the other; each is noted as soon as it has ended.

    What the journal has already, by a worker that was lost meanwhile, is not done again.  If a
    block cannot be read or written, or may not be skipped, the rest is left: see `check_journal`.

    Parameters
    ----------
    plan : Plan
    indices : sequence of int
        Numbers of the blocks.
    journal : Path
        Of this bundle.

    Raises
    ------
    OSError
        If a disk does not take what is written.
    """
    learned = Learned.read(plan.paths.outputs)
    if learned is None:
        raise FileNotFoundError(plan.paths.outputs)
    before = History()
    before.read(journal)
    worker: Worker | None = None
    most, n_skipped, n_bytes = plan.config.max_skipped, len(before.skipped), 0
    with LineWriter(journal) as lines:
        for index in indices:
            if index in before.ended:
                continue
            # A run that does all again has removed the journal of a worker that it does not know.
            if is_ending() or not lines.is_there or (most is not None and n_skipped > most):
                break
            try:
                if before.n_starts.get(index, 0) >= MOST_LOSSES:
                    ended = blame(plan, index, lines)
                else:
                    worker = worker or _start(plan, learned, index, lines)
                    ended = worker.compute(index, lines)
            except _ENDING:  # it is noted
                break
            advance(UNIT, 1)
            advance(VOLUME, (n_bytes + ended.n_bytes) // MIB - n_bytes // MIB)
            n_bytes += ended.n_bytes
            n_skipped += ended.state == SKIPPED
    os.utime(journal)  # it counts as written also if all had ended before


def _start(plan: Plan, learned: Learned, index: int, lines: LineWriter) -> Worker:
    """Open the channels; note it, as of the first block, if that fails."""
    try:
        return Worker(plan, learned)
    except ReadError as error:
        lines.write(format_failure(index, error, str(error)))
        raise


def blame(plan: Plan, index: int, lines: LineWriter) -> Ended:
    """Note a block that has cost several workers as skipped."""
    block = plan.grid[index]
    said = f"its worker was lost {MOST_LOSSES} times while it ran, as for too much memory"
    if plan.config.on_error == "stop":
        error = BlockError(f"Block {block.key}: {said}.")
        lines.write(format_failure(index, error, str(error)))
        raise error
    ended = _note_skipped(index, block, 0.0, said, "")
    lines.write(format_end(ended))
    return ended


def check_journal(history: History, most_skipped: int | None) -> None:
    """Raise what ends a run, by what the journals of its bundles say.

    Raises
    ------
    ReadError, WriteError, BlockError
        If a block could not be read or written, or could not be skipped.
    SkippedError
        If more were skipped than may be.
    """
    for kind, text in history.failures:
        for known in _ENDING:
            if kind == known.__name__:
                raise known(text)
    check_skipped(history, most_skipped)


def check_skipped(history: History, most_skipped: int | None) -> None:
    """Raise `SkippedError` if more blocks were skipped than may be."""
    if most_skipped is None:
        return
    skipped = history.skipped
    if len(skipped) > most_skipped:
        last = skipped[-1]
        raise SkippedError(
            f"{count(len(skipped), 'block')} {'was' if len(skipped) == 1 else 'were'} skipped, "
            f"more than max_skipped {most_skipped}; the last one, {last.key}: {last.error}"
        )
