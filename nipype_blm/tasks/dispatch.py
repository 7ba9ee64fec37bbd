"""Hand tasks to the workers of a pool, and take back what they have done."""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial

from nipype_blm.errors import InputError, Problem
from nipype_blm.tasks.calls import Call, Calls, check_needs
from nipype_blm.tasks.disks import PATIENCE_S, find_paths, list_names
from nipype_blm.tasks.options import Resources
from nipype_blm.tasks.pools import Pool
from nipype_blm.tasks.task import Done, PoolError, Task, TaskError, find_state, perform
from nipype_blm.tasks.worker import CallError
from nipype_blm.units import GIB


def run_on_pool(tasks: Sequence[Task], pool: Pool, retries: int) -> Iterator[tuple[Task, Done]]:
    """Return tasks as they end; parameters and errors are those of `run_tasks`."""
    if pool.worker is not None:
        check_needs({task.name: find_needs([task]) for task in tasks}, pool.worker)
    take = partial(next, iter(tasks), None)
    with closing(run_as_taken(take, pool, retries, lambda: len(tasks))) as endings:
        for task, done in endings:
            if isinstance(done, PoolError):
                raise done
            yield task, done


def run_as_taken(
    take: Callable[[], Task | None], pool: Pool, retries: int, count_most: Callable[[], int]
) -> Generator[tuple[Task, Done | PoolError], None, None]:
    """Return tasks as they end; which there are may depend on those that have ended.

    Parameters
    ----------
    take : callable
        Returns the next task; None if there is none now.  It is asked again whenever one has ended.
    pool : Pool
    retries : int
        As of `run_tasks`.
    count_most : callable
        Returns how many the pool is to have at a time, at least 1.

    Yields
    ------
    task : Task
    done : Done or PoolError
        An error, with the likely reason, if it was lost with its worker more often than `retries`.
    """
    calls = Calls(pool, retries, PATIENCE_S)
    running: list[_TaskCall] = []
    try:
        while True:
            while len(running) < count_most() and (task := take()) is not None:
                running.append(_TaskCall(task))
                calls.submit(running[-1])
            if not running:
                return
            calls.wait()
            for call in list(running):
                done = _take(calls, call)
                if done is not None:
                    running.remove(call)
                    calls.forget(call)  # else Dask repeats it if its worker is lost later
                    yield call.task, done
    finally:
        running.clear()
        calls.close()


def find_needs(tasks: Sequence[Task]) -> Resources:
    """Return what a worker needs that can run any of some tasks, as `open_pool` takes it."""
    return Resources(1, max((task.bytes for task in tasks), default=0) / GIB)


class _TaskCall(Call):
    """A task that was submitted."""

    def __init__(self, task: Task) -> None:
        kind = getattr(task.function, "__name__", "task")
        super().__init__(task.name, kind, _perform, (task,), find_needs([task]))
        self.task = task
        self.last_look: float | None = None  # at the file of a task that has ended

    def find_files(self) -> list[str]:
        """Return the files that it reads, as far as this machine sees them."""
        task = self.task
        paths = set(find_paths(task.arguments if task.inputs is None else task.inputs))
        # A text that is no path may be too long for one, which `Path.exists` takes for an error.
        return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110


def _perform(task: Task) -> Done | list[Problem]:
    """Perform a task; return what is wrong where that is for the user to correct."""
    try:
        return perform(task)
    except InputError as error:  # is not repeated
        return error.problems


def _take(calls: Calls, call: _TaskCall) -> Done | PoolError | None:
    """Return what a call has done, or why it was lost; None while that is not known here."""
    ending = calls.look(call)
    if ending is None:
        return None
    if isinstance(ending.error, CallError):
        raise TaskError(f"{call.name} has failed:\n{''.join(ending.error.args[0])}")
    if isinstance(ending.error, PoolError):
        return ending.error
    if ending.error is not None:
        raise ending.error
    try:
        found = call.future.result(timeout=PATIENCE_S)
    except TimeoutError:  # it was lost, with its worker, before it was asked for
        return None
    if isinstance(found, list):
        raise InputError(found)
    return _await(call, found._replace(attempts=call.n_attempts))


def _await(call: _TaskCall, done: Done) -> Done | None:
    """Return None until this machine sees what a task wrote on another one."""
    list_names(os.path.dirname(call.task.output))  # noqa: PTH120
    state = find_state(call.task.output)
    if state == done[:2]:
        return done
    now = time.monotonic()
    call.last_look = call.last_look or now + PATIENCE_S
    if now < call.last_look:
        return None
    if state[0] == done.size:  # disks may count time differently
        return done._replace(mtime_ns=state[1])
    raise PoolError(
        f"{call.name} has ended well, but this machine has not seen it for {PATIENCE_S:g} s; put "
        "it on a disk that all machines share."
    )
