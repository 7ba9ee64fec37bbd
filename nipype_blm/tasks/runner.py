"""Run a list of tasks, here or on a pool; what an earlier run has done is not done again."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import ContextVar, copy_context
from pathlib import Path
from threading import Event
from traceback import format_exception
from typing import TYPE_CHECKING

from nipype_blm.errors import InputError
from nipype_blm.progress import advance
from nipype_blm.tasks.disks import plan_repeat
from nipype_blm.tasks.journal import Journal
from nipype_blm.tasks.task import Done, Task, perform

if TYPE_CHECKING:
    from nipype_blm.tasks.pools import Pool

_ending: ContextVar[Event | None] = ContextVar("ending", default=None)


def is_ending() -> bool:
    """Return whether the run is to end of which this thread does a task, as after an error."""
    ending = _ending.get()
    return ending is not None and ending.is_set()


def run_tasks(
    tasks: Sequence[Task],
    pool: "Pool | None" = None,
    *,
    journal: Path,
    retries: int = 2,
    is_whole: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """Run the tasks of a list that are not done yet.

    None waits for another one: what is made from the files of some tasks is a list of its own,
    which may have the same journal.

    Parameters
    ----------
    tasks : sequence of Task
    pool : Pool, optional
        Of `nipype_blm.tasks.pools.open_pool`; default: here, one after the other.
    journal : Path
        Where it is noted what is done.  A run that was killed is started again with the same one.
    retries : int
        How often a task is run again after an error of its machine or disk, or after its worker
        was lost.
    is_whole : callable, optional
        Whether a file that the journal knows can be used; default: if size and time are the same.

    Returns
    -------
    outputs : list of Path
        Of all tasks, in their order.

    Raises
    ------
    InputError
        If a task fits into no worker, before any of them starts; or of a task.
    PoolError
        If a task was lost with its worker more often than `retries`, with the likely reason, or
        there are no workers.
    TaskError
        If a task has failed on a worker, or has not written its file.

    Notes
    -----
    The first error ends the run; what is done by then is noted.
    """
    _check_outputs(tasks)
    noted = Journal(journal)

    def is_done(task: Task) -> bool:
        return noted.is_done(task) and (is_whole is None or is_whole(task.output))

    missing = [task for task in tasks if not is_done(task)]
    advance("tasks", len(tasks) - len(missing))
    with closing(run_each(missing, pool, retries)) as endings:
        for task, done in endings:
            noted.add(task, done)
            advance("tasks", 1)
    return [task.output for task in tasks]


def _check_outputs(tasks: Sequence[Task]) -> None:
    counts = Counter(str(task.output) for task in tasks)
    twice = [path for path, n in counts.items() if n > 1]
    if twice:
        raise ValueError(f"Several tasks write {', '.join(twice)}; give each a file of its own.")


def run_each(
    tasks: Sequence[Task], pool: "Pool | None", retries: int, n_threads: int = 1
) -> Generator[tuple[Task, Done], None, None]:
    """Return tasks as they end; nothing is noted anywhere.

    Parameters and errors are those of `run_tasks`.  Without a pool some threads may share them.
    """
    if pool is not None:
        if tasks:
            from nipype_blm.tasks.dispatch import run_on_pool

            yield from run_on_pool(tasks, pool, retries)
    elif n_threads == 1:
        yield from ((task, _run_here(task, retries)) for task in tasks)
    else:
        yield from _run_in_threads(tasks, retries, n_threads)


def _run_in_threads(
    tasks: Sequence[Task], retries: int, n_threads: int
) -> Generator[tuple[Task, Done], None, None]:
    waiting, running = deque(tasks), dict[Future[Done], Task]()
    ending = Event()

    def run(task: Task) -> Done:
        _ending.set(ending)
        return _run_here(task, retries)

    with ThreadPoolExecutor(n_threads) as executor:
        try:
            while waiting or running:
                while waiting and len(running) < n_threads:
                    task = waiting.popleft()
                    # In a context of its own, so that whoever listens hears of it.
                    running[executor.submit(copy_context().run, run, task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            ending.set()
            waiting.clear()


def _run_here(task: Task, retries: int) -> Done:
    n_before = 0
    while True:
        try:
            return perform(task)._replace(attempts=n_before + 1)
        except InputError:  # for the user to correct, however often it is read
            raise
        except Exception as error:
            pause_s = plan_repeat(task.name, format_exception(error), n_before, retries)
            if pause_s is None:
                raise
        time.sleep(pause_s)
        n_before += 1
