"""After all blocks have run: the outputs, the tables, and what there is."""

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nipype_blm.blockmap.compute import check_skipped
from nipype_blm.blockmap.images import find_target, remove_torn, write_boss, write_nifti
from nipype_blm.blockmap.journal import Ended, History, find_records, read_history
from nipype_blm.blockmap.merging import merge
from nipype_blm.blockmap.outputs import Learned
from nipype_blm.blockmap.plan import Plan
from nipype_blm.blockmap.tables import find_table, note_table, write_block_tables, write_table
from nipype_blm.errors import count
from nipype_blm.io.files import write_if_changed
from nipype_blm.tasks.disks import PATIENCE_S, list_names

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Attributes
    ----------
    out_dir : Path
    outputs : dict of str to str
        Where the arrays are that the function has returned.
    table : Path or None
        Of the records that it has returned.
    keys : list of str
        Of the blocks that are done, in their order: ``z_y_x`` of the first voxel.
    skipped : list of Ended
        The blocks that were skipped, with `error` and `traceback`.
    n_blocks : int
    """

    out_dir: Path
    outputs: dict[str, str]
    table: Path | None
    keys: list[str]
    skipped: list[Ended]
    n_blocks: int

    @property
    def blocks_table(self) -> Path:
        """A row for each block."""
        return self.out_dir / "blocks.tsv"


def assemble(plan: Plan, learned: Learned, n_threads: int = 1) -> Result:
    """Put blocks together, write the outputs and the tables, and say what there is.

    Raises
    ------
    InputError
        If an output cannot hold what several blocks make.
    SkippedError
        If more blocks are skipped than may be.
    OSError
        If no journal says how a block has ended.
    """
    history = _await_ends(plan)
    write_block_tables(plan, history)
    check_skipped(history, plan.config.max_skipped)
    if not plan.paths.whole.is_file():
        _write_outputs(plan, learned, history.done, n_threads)
        write_if_changed(plan.paths.whole, b"")
    places = find_records(plan.paths.journal)
    has_table = learned.has_records or bool(places)
    table = find_table(plan)
    if has_table:
        remove_torn(table)
        note_table(plan)
        write_table(table, places)
    if len(history.done) == len(plan.grid):
        _remove_parts(plan, learned)
    return Result(
        plan.out_dir,
        {name: each.path for name, each in learned.outputs.items()},
        table if has_table else None,
        [plan.grid[i].key for i in sorted(history.done)],
        history.skipped,
        len(plan.grid),
    )


def _await_ends(plan: Plan) -> History:
    """Return how all blocks have ended; network disks may show journals of other machines late."""
    folder, end = plan.paths.journal, time.monotonic() + PATIENCE_S
    while True:
        history = read_history(folder)
        missed = [number for number in range(len(plan.grid)) if number not in history.ended]
        if not missed:
            return history
        if time.monotonic() >= end:
            raise OSError(
                f"The journals in {folder} do not say how {count(len(missed), 'block')} ended, "
                f"such as {plan.grid[missed[0]].key}; run the same again, which does only those."
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        list_names(str(folder))


def _write_outputs(plan: Plan, learned: Learned, done: Collection[int], n_threads: int) -> None:
    first = next(iter(plan.open_channels().values()))
    for output in learned.outputs.values():
        if output.kind != "boss":
            remove_torn(find_target(plan, output))
            remove_torn(Path(output.path))
        if not output.is_direct:
            merge(plan, output, done, n_threads)
        if output.kind == "nifti":
            write_nifti(plan, output, first)
        if output.kind == "boss" and not output.is_direct:
            write_boss(plan, output)


def _remove_parts(plan: Plan, learned: Learned) -> None:
    """Remove what is in the outputs now, once nothing can be added any more."""
    for name, output in learned.outputs.items():
        shutil.rmtree(plan.paths.find_parts(name), ignore_errors=True)
        if output.kind != "zarr":
            shutil.rmtree(find_target(plan, output), ignore_errors=True)
