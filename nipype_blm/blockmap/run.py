"""Run a function over all blocks: the first one here, the rest anywhere, then the whole."""

import os
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from nipype_blm.blockmap.assembling import Result, assemble
from nipype_blm.blockmap.compute import MIB, check_journal, compute_bundle
from nipype_blm.blockmap.functions import Function, name_function
from nipype_blm.blockmap.journal import History, name_journal, read_history
from nipype_blm.blockmap.options import make_config
from nipype_blm.blockmap.plan import Plan, read_stamp
from nipype_blm.blockmap.planning import make_plan
from nipype_blm.blockmap.preparing import prepare
from nipype_blm.blockmap.tables import write_block_tables
from nipype_blm.errors import InputError
from nipype_blm.machine import THREAD_VARIABLES
from nipype_blm.stages.commands import holding
from nipype_blm.tasks.runner import run_each
from nipype_blm.tasks.task import PoolError, Task

if TYPE_CHECKING:
    from nipype_blm.tasks.options import PoolOptions
    from nipype_blm.tasks.pools import Pool

_RETRIES = 2  # of a bundle whose worker was lost
# Of a worker: what a slow one has left is not the whole of a run, and few files are written.
_BUNDLES_PER_WORKER, _MOST_IN_BUNDLE, _MOST_BUNDLES = 8, 64, 5000
# Each bundle takes its arrays along.
_MOST_ARRAY_BYTES = 2**20


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
        Paths, addresses, mappings of a path and how it is read, or array-likes of shape (z, y, x),
        by name.
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
        Before any block but the first one is read.
    ReadError, WriteError, BlockError, SkippedError, OSError, TaskError, PoolError
        If the run has ended early; what is done stays done.

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
            given[str(name)] = {"path": f"array://{type(source).__name__}"}
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
    options = None if plugin_args is None else _check_pool(plugin_args, plan)
    with holding(plan.out_dir, "OUT"), one_thread():
        learned, waiting, history = prepare(plan, overwrite)
        try:
            with _opening(options if waiting else None, plan) as pool:
                n_workers = n_threads if pool is None else pool.count_workers()
                _run_blocks(plan, cut(waiting, n_workers), history, n_threads, pool)
        except Exception:
            with suppress(OSError):  # of a full disk
                write_block_tables(plan, read_history(plan.paths.journal))
            raise
        return assemble(plan, learned, n_threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Have libraries use one thread, unless the user says otherwise: blocks run side by side."""
    given = [os.environ[name] for name in THREAD_VARIABLES if name in os.environ]
    n_threads = next((int(text) for text in given if text.isdecimal() and int(text)), 1)
    missing = [] if given else THREAD_VARIABLES
    # For libraries that the function loads, and for those that are loaded by now.
    os.environ.update(dict.fromkeys(missing, str(n_threads)))
    try:
        with threadpool_limits(n_threads):
            yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def count_done(plan: Plan) -> int:
    """Return how many blocks an earlier run has done; 0 if it was one of something else."""
    if read_stamp(plan.paths.plan) != plan.stamp:
        return 0
    return len(read_history(plan.paths.journal).done)


def count_mib(plan: Plan) -> int:
    """Return how much is read in all, in MiB."""
    channels = plan.open_channels().values()
    return sum(each.n_bytes for each in channels) * plan.grid.n_read // MIB


def cut(waiting: Sequence[int], n_workers: int) -> list[list[int]]:
    """Return bundles of blocks: some for each worker."""
    n = len(waiting)
    size = min(_MOST_IN_BUNDLE, n // (_BUNDLES_PER_WORKER * max(1, n_workers)))
    size = max(1, size, -(-n // _MOST_BUNDLES))
    return [list(waiting[i : i + size]) for i in range(0, n, size)]


def run_bundle(plan: Plan, bundle: Sequence[int], journal: Path) -> None:
    """Do some blocks, in a process of its own.

    What another try of the same bundle has noted, such as one that was killed, is not done again.

    Raises
    ------
    ReadError, WriteError, BlockError, SkippedError
        If a block cannot be read or written, or may not be skipped.
    """
    compute_bundle(plan, bundle, journal)
    history = History()
    history.read(journal)
    check_journal(history, plan.config.max_skipped)


def _run_blocks(
    plan: Plan,
    bundles: Sequence[Sequence[int]],
    history: History,
    n_threads: int,
    pool: "Pool | None",
) -> None:
    tasks, compute = [], compute_bundle if pool is None else _compute_on_worker
    for bundle in bundles:
        journal = name_journal(plan.paths.journal)
        arguments = (plan, bundle, journal)
        tasks.append(Task(compute, arguments, journal, "", inputs=(plan.paths.plan,)))
    endings: Generator[Any, None, None]
    if pool is None:
        endings = run_each(tasks, None, _RETRIES, n_threads)
    else:
        endings = _run_on_pool(tasks, pool)
    with closing(endings):
        for task, _ in endings:
            history.read(task.output)
            check_journal(history, plan.config.max_skipped)


def _compute_on_worker(plan: Plan, bundle: Sequence[int], journal: Path) -> None:
    with one_thread():
        compute_bundle(plan, bundle, journal)


def _run_on_pool(tasks: Sequence[Task], pool: "Pool") -> Generator[Any, None, None]:
    """Yield bundles as they end; one that is lost goes back, if some of its blocks have ended."""
    from nipype_blm.tasks.dispatch import run_as_taken

    waiting, n_ended = deque(tasks), dict[Path, int]()
    take = partial(_pop, waiting)
    with closing(run_as_taken(take, pool, _RETRIES, lambda: len(tasks))) as endings:
        for task, done in endings:
            if not isinstance(done, PoolError):
                yield task, done
                continue
            history = History()
            history.read(task.output)
            # A block that costs its workers is skipped, and the next one may be another.
            if pool.client.status != "running" or len(history.ended) == n_ended.get(task.output, 0):
                raise done
            n_ended[task.output] = len(history.ended)
            waiting.append(task)


def _pop(waiting: deque[Task]) -> Task | None:
    return waiting.popleft() if waiting else None


def _check_pool(plugin_args: Mapping[str, Any], plan: Plan) -> "PoolOptions":
    from nipype_blm.stages.commands import check_pool

    if plan.arrays and not _can_travel(plan):
        raise InputError(
            "A channel is an array of this process, which workers do not have; give a path, or run "
            "with threads."
        )
    return check_pool(plugin_args)


@contextmanager
def _opening(options: "PoolOptions | None", plan: Plan) -> Iterator["Pool | None"]:
    if options is None:
        yield None
        return
    from nipype_blm.stages.commands import opening_pool

    with opening_pool(options, plan.out_dir / "workers") as pool:
        yield pool


def _can_travel(plan: Plan) -> bool:
    import cloudpickle

    try:
        return len(cloudpickle.dumps(plan.arrays)) <= _MOST_ARRAY_BYTES
    except Exception:  # of many kinds
        return False
