"""Run a function over all blocks: the first one here, the rest anywhere, then the whole."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nipype_blm.blockmap.compute import (
    BYTES,
    MIB,
    UNIT,
    BlockError,
    SkippedError,
    Worker,
    compute_bundle,
    describe_skipped,
)
from nipype_blm.blockmap.functions import Function, Returned, name_function, read_code
from nipype_blm.blockmap.journal import (
    Ended,
    History,
    find_records,
    read_history,
)
from nipype_blm.blockmap.options import Config, OutputFields, make_config
from nipype_blm.blockmap.outputs import (
    Learned,
    create_target,
    find_target,
    make_merge_grid,
    merge_box,
    open_target,
    plan_output,
    write_boss,
    write_nifti,
)
from nipype_blm.blockmap.plan import Plan, read_stamp
from nipype_blm.blockmap.planning import check_places, make_plan
from nipype_blm.blockmap.steady import ReadError, WriteError
from nipype_blm.blockmap.tables import write_block_tables, write_table
from nipype_blm.errors import InputError, count
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.lock import hold_folders
from nipype_blm.private import find_obstacle
from nipype_blm.progress import advance
from nipype_blm.tasks.journal import LineWriter
from nipype_blm.tasks.runner import run_each
from nipype_blm.tasks.task import Task, TaskError

if TYPE_CHECKING:
    from nipype_blm.tasks.pools import Pool

logger = logging.getLogger(__name__)

# So many blocks are tried until the function has worked on one, where its results are not known.
_MOST_TRIED = 3
# Of a worker: what a slow one has left is not the whole of a run, and few files are written.
_RETRIES = 2  # of a bundle whose worker was lost
_BUNDLES_PER_WORKER, _MOST_IN_BUNDLE, _MOST_BUNDLES = 8, 64, 5000


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


def map_blocks(
    function: Function | str,
    channels: Mapping[str, Any],
    out_dir: str | Path,
    *,
    n_threads: int = 1,
    plugin_args: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Result:
    """Call a function on every block of a volume; what an earlier run has done is not done again.

    Parameters
    ----------
    function : callable or str
        Gets ``{channel: array}`` with axes z, y, x, and the `Block` if it has a parameter `block`.
        Returns nothing, an array (or several by name) of the shape that it got or of the block,
        or records: dictionaries of numbers and text.
    channels : mapping
        Paths, addresses, mappings of a path and how it is read, or array-likes, by name.
    out_dir : path
        For results, tables and the journal.
    n_threads : int
        Threads of this process, without a pool.
    plugin_args : mapping, optional
        Arguments of a pool of workers, as of `DaskPlugin`, such as ``{"cluster": "slurm"}``.
    overwrite : bool
        Remove what a run of something else has left in `out_dir`.
    **options
        As in a configuration: `block_size`, `halo`, `ranges`, `outputs`, `arguments`, ...

    Returns
    -------
    result : Result

    Raises
    ------
    InputError
        Before any block is read.
    ReadError, WriteError, BlockError, SkippedError, TaskError, PoolError
        If the run has ended early.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.arange(8).reshape(2, 2, 2)
    >>> def total(data):
    ...     return {"sum": data["em"].sum()}
    >>> result = map_blocks(total, {"em": volume}, "out", block_size=(2, 2, 1))  # doctest: +SKIP
    >>> result.keys  # doctest: +SKIP
    ['0_0_0', '1_0_0']
    """
    arrays, given = {}, {}
    for name, source in channels.items():
        if isinstance(source, str | Path | Mapping):
            given[str(name)] = source
        else:
            arrays[str(name)] = source
            given[str(name)] = {"path": type(source).__name__, "kind": ""}
    text = function if isinstance(function, str) else name_function(function)
    config = make_config({"channels": given, "function": text, **options})
    called = None if isinstance(function, str) else function
    plan = make_plan(config, Path(out_dir), str(Path.cwd()), called, arrays)
    return run_plan(plan, n_threads, plugin_args, overwrite)


def run_plan(
    plan: Plan,
    n_threads: int = 1,
    plugin_args: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Result:
    """Run all that a plan asks for; parameters and errors are those of `map_blocks`."""
    with holding(plan.out_dir):
        learned = prepare(plan, overwrite)
        waiting = list_waiting(plan)
        needs_pool = plugin_args is not None and waiting
        with _opening(plugin_args or {}, plan) if needs_pool else nullcontext() as pool:
            n_workers = n_threads if pool is None else pool.count_workers()
            _run_blocks(plan, cut(waiting, n_workers), n_threads, pool)
            return assemble(plan, learned, n_threads, pool)


@contextmanager
def holding(out_dir: Path) -> Any:
    """Hold the folder of a run.

    Raises
    ------
    InputError
        If another run has it, or nothing can be written there.
    """
    obstacle = find_obstacle(out_dir)
    if obstacle is not None:
        raise InputError(f"OUT {out_dir} {obstacle}.")
    with hold_folders({"OUT": out_dir}):
        yield


# ------------------------------------------------------------------- before other blocks run


def prepare(plan: Plan, overwrite: bool = False) -> Learned:
    """Make all that blocks are written to; the first block is done here if it has to tell what.

    Raises
    ------
    InputError
        If the folder has the results of something else, or the function works on none of the first
        blocks.
    """
    paths = plan.paths
    known = read_stamp(paths.plan)
    if overwrite:
        _remove(plan)
    elif known not in (None, plan.stamp):
        raise InputError(
            f"{plan.out_dir} has the results of other settings, or of another volume (see "
            f"{paths.plan}); name another folder, or give overwrite."
        )
    _compare_code(plan)
    plan.write()
    paths.journal.mkdir(parents=True, exist_ok=True)
    learned = Learned.read(paths.outputs)
    if learned is None:
        learned = _declare(plan) or _learn(plan)
    _check_outputs(plan, learned)
    if list_waiting(plan):
        (paths.work / _WHOLE).unlink(missing_ok=True)
    return learned


def _check_outputs(plan: Plan, learned: Learned) -> None:
    """Refuse to go on from blocks whose voxels have been removed."""
    is_whole = (plan.paths.work / _WHOLE).is_file()
    for name, output in learned.outputs.items():
        path = Path(output.path) if is_whole else find_target(plan, output)
        if not (output.kind == "boss" or path.exists()):
            raise InputError(
                f"{path}, the output {name} of blocks that are done, is gone; to do them again, "
                "give overwrite, or another folder."
            )


def _remove(plan: Plan) -> None:
    """Remove what an earlier run has made, as far as it is known."""
    paths = plan.paths
    learned = Learned.read(paths.outputs)
    for output in learned.outputs.values() if learned else ():
        if output.kind == "zarr":
            shutil.rmtree(output.path, ignore_errors=True)
        elif output.kind == "nifti":
            Path(output.path).unlink(missing_ok=True)
    for folder in (paths.journal, paths.work):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (paths.plan, paths.blocks_table, paths.skipped_table):
        path.unlink(missing_ok=True)


def _compare_code(plan: Plan) -> None:
    """Say if the function has another text than in the run before: what is done stays."""
    path = plan.paths.out_dir / ".function"
    code = fingerprint(read_code(plan.function)).encode()
    has_changed = path.is_file() and path.read_bytes() != code
    if has_changed and read_history(plan.paths.journal).done:
        logger.warning(
            "The function has changed since the last run.  Blocks that are done stay as they are; "
            "to do all of them again, give overwrite, or another folder."
        )
    write_if_changed(path, code)


def _declare(plan: Plan) -> Learned | None:
    """Return what the configuration says of all results; None if it leaves something open."""
    asked = plan.config.outputs
    if asked is None or not asked or any(each.dtype is None for each in asked.values()):
        return None
    return _create(plan, {name: each.dtype for name, each in asked.items()}, False)


def _create(plan: Plan, dtypes: Mapping[str, Any], has_records: bool) -> Learned:
    asked, default = plan.config.outputs or {}, OutputFields.model_validate({})
    outputs = {
        name: plan_output(name, asked.get(name, default), np.dtype(dtype), plan)
        for name, dtype in dtypes.items()
    }
    check_places(plan, {name: each.path for name, each in outputs.items()})
    first = next(iter(plan.open_channels().values()))
    for output in outputs.values():
        create_target(plan, output, first)
    learned = Learned(outputs, has_records)
    learned.write(plan.paths.outputs)
    return learned


def _learn(plan: Plan) -> Learned:
    """Do the first block, and make what its results, and those of all others, are written to.

    A block that is skipped tells nothing; then another one is tried.
    """
    failed: list[Ended] = []
    worker = Worker(plan, None, lambda returned: _create_for(plan, returned))
    with LineWriter(plan.paths.journal / "first.jsonl") as lines:
        for index in choose_tried(len(plan.grid)):
            ended = worker.compute(index, lines)
            if worker.learned is not None:
                advance(UNIT, 1)
                advance(BYTES, ended.n_bytes // MIB)
                return worker.learned
            failed.append(ended)
    shutil.rmtree(plan.paths.journal)
    raise InputError(
        f"The function has failed on {'all' if len(failed) == len(plan.grid) else 'the first'} "
        f"{count(len(failed), 'block')} that were tried, so that it is not known what it returns; "
        f"on block {failed[0].key}: {failed[0].error}\n{failed[0].traceback.rstrip()}"
    )


def _create_for(plan: Plan, returned: Returned) -> Learned:
    _check_names(plan.config, returned.arrays)
    dtypes = {name: values.dtype for name, values in returned.arrays.items()}
    return _create(plan, dtypes, returned.has_records)


def choose_tried(n_blocks: int) -> list[int]:
    """Return the numbers of the blocks that may be first: those inside are less often empty."""
    return list(dict.fromkeys((0, n_blocks // 2, n_blocks - 1)))[:_MOST_TRIED]


def _check_names(config: Config, arrays: Iterable[str]) -> None:
    """Refuse outputs that the function does not return, and others."""
    if config.outputs is not None and set(config.outputs) != set(arrays):
        raise InputError(
            f"outputs names {', '.join(config.outputs) or 'nothing'}, and the function returned "
            f"{', '.join(arrays) or 'no array'}; name what it returns (one array without a name is "
            "called as the first of outputs)."
        )


# --------------------------------------------------------------------------------- all blocks


def list_waiting(plan: Plan) -> list[int]:
    """Return the numbers of the blocks that are not done: also those that were skipped."""
    done = read_history(plan.paths.journal).done
    return [i for i in range(len(plan.grid)) if i not in done]


def count_done(plan: Plan) -> int:
    """Return how many blocks an earlier run has done; 0 if it was one of something else."""
    if read_stamp(plan.paths.plan) != plan.stamp:
        return 0
    return len(read_history(plan.paths.journal).done)


def count_bytes(plan: Plan) -> int:
    """Return how much is read in all, in MiB."""
    channels = plan.open_channels().values()
    return sum(each.dtype.itemsize * each.n_kept for each in channels) * plan.grid.n_read // MIB


def cut(waiting: Sequence[int], n_workers: int) -> list[list[int]]:
    """Return bundles of blocks: some for each worker."""
    n = len(waiting)
    size = min(_MOST_IN_BUNDLE, n // (_BUNDLES_PER_WORKER * max(1, n_workers)))
    size = max(1, size, -(-n // _MOST_BUNDLES))
    return [list(waiting[i : i + size]) for i in range(0, n, size)]


def name_journal(plan: Plan, bundle: Sequence[int]) -> Path:
    """Return a file that no run before has written."""
    from uuid import uuid4

    return plan.paths.journal / f"{bundle[0]:09d}-{uuid4().hex[:12]}.jsonl"


def run_bundle(plan: Plan, bundle: Sequence[int]) -> Path:
    """Do some blocks, in a process of its own; return their journal.

    What another try of the same bundle has done, such as one that was killed, is not done again.
    """
    history = read_history(plan.paths.journal)
    waiting = [number for number in bundle if number not in history.done]
    journal = name_journal(plan, waiting or [0])
    journal.touch()
    compute_bundle(plan, waiting, journal)
    return journal


def _run_blocks(
    plan: Plan, bundles: Sequence[Sequence[int]], n_threads: int, pool: "Pool | None"
) -> None:
    tasks = []
    for bundle in bundles:
        journal = name_journal(plan, bundle)
        arguments = (plan, bundle, journal)
        tasks.append(Task(compute_bundle, arguments, journal, "", inputs=(plan.paths.plan,)))
    most, skipped = plan.config.max_skipped, History()
    with _retelling(), closing(run_each(tasks, pool, _RETRIES, n_threads)) as endings:
        for task, _ in endings:
            if most is None:
                continue
            skipped.read(task.output)
            if len(skipped.skipped) > most:
                last = skipped.skipped[-1]
                raise SkippedError(describe_skipped(len(skipped.skipped), last, most))


@contextmanager
def _retelling() -> Any:
    """Raise what says all by itself as it is, and not as a traceback of a worker."""
    try:
        yield
    except TaskError as error:
        for kind in (ReadError, WriteError, BlockError, SkippedError):
            _, found, told = str(error).rpartition(f"\n{kind.__module__}.{kind.__name__}: ")
            if found:
                raise kind(told.strip()) from None
        raise


@contextmanager
def _opening(plugin_args: Mapping[str, Any], plan: Plan) -> Any:
    from nipype_blm.stages.commands import check_pool, opening_pool

    if plan.arrays and not _can_travel(plan):
        raise InputError(
            "A channel is an array of this process, which workers do not have; give a path, or run "
            "with threads."
        )
    with opening_pool(check_pool(plugin_args), plan.out_dir / "workers") as pool:
        yield pool


def _can_travel(plan: Plan) -> bool:
    import cloudpickle

    try:
        cloudpickle.dumps(plan.arrays)
    except Exception:  # of many kinds
        return False
    return True


# -------------------------------------------------------------------------------- the whole

_WHOLE = "whole"  # a file in the work folder: all that is done is in the outputs


def assemble(
    plan: Plan, learned: Learned, n_threads: int = 1, pool: "Pool | None" = None
) -> Result:
    """Put blocks together, write the outputs and the tables, and say what there is.

    Raises
    ------
    SkippedError
        If more blocks are skipped than may be.
    """
    history = read_history(plan.paths.journal)
    marker = plan.paths.work / _WHOLE
    first = next(iter(plan.open_channels().values()))
    if not marker.is_file():
        for output in learned.outputs.values():
            if not output.is_direct:
                _merge(plan, output, n_threads)
            if output.kind == "nifti":
                write_nifti(plan, output, first)
            if output.kind == "boss" and not output.is_direct:
                write_boss(plan, output)
    write_block_tables(plan, history)
    has_table = learned.has_records or _has_records(plan)
    table = write_table(plan, history.done) if has_table else None
    skipped = history.skipped
    write_if_changed(marker, b"")
    if len(history.done) == len(plan.grid):
        _remove_parts(plan, learned)
    most = plan.config.max_skipped
    if most is not None and len(skipped) > most:
        raise SkippedError(describe_skipped(len(skipped), skipped[-1], most))
    return Result(
        plan.out_dir,
        {name: each.path for name, each in learned.outputs.items()},
        table,
        [plan.grid[i].key for i in sorted(history.done)],
        skipped,
        len(plan.grid),
    )


def _has_records(plan: Plan) -> bool:
    return bool(find_records(plan.paths.journal))


def _merge(plan: Plan, output: Any, n_threads: int) -> None:
    """Put overlapping blocks together, box by box."""
    from concurrent.futures import ThreadPoolExecutor

    target = open_target(plan, output)

    def write(box: Any) -> None:
        region = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        target[region] = merge_box(plan, output, box)

    with ThreadPoolExecutor(n_threads) as executor:
        for _ in executor.map(write, make_merge_grid(plan)):
            pass


def _remove_parts(plan: Plan, learned: Learned) -> None:
    """Remove what is in the outputs now, once nothing can be added any more."""
    for name, output in learned.outputs.items():
        shutil.rmtree(plan.paths.find_parts(name), ignore_errors=True)
        if output.kind != "zarr":
            shutil.rmtree(find_target(plan, output), ignore_errors=True)
