"""Before all blocks run: what earlier runs have done, and what the results are written to."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.blockmap.compute import MIB, MOST_LOSSES, UNIT, VOLUME, Worker, blame, check_skipped
from nipype_blm.blockmap.functions import Returned, read_code
from nipype_blm.blockmap.images import check_own, create_target, find_target, has_target
from nipype_blm.blockmap.journal import History, list_journals, name_journal, read_history
from nipype_blm.blockmap.options import Config, OutputFields, check_output_name
from nipype_blm.blockmap.outputs import Learned, Output, is_inside, place_path, plan_output
from nipype_blm.blockmap.plan import Plan, read_stamp
from nipype_blm.blockmap.planning import check_places
from nipype_blm.blockmap.tables import check_table, find_table, list_own_tables
from nipype_blm.errors import InputError, count
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import write_if_changed
from nipype_blm.progress import advance
from nipype_blm.tasks.journal import LineWriter

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """What is known when blocks can run."""

    learned: Learned
    waiting: list[int]  # numbers of the blocks that are to run
    history: History  # of the blocks that have run already to learn


def prepare(plan: Plan, overwrite: bool = False) -> Prepared:
    """Make all that blocks are written to; the first block is done here if it has to tell what.

    Raises
    ------
    InputError
        If the folder has the results of something else, or the function works on none of the first
        blocks.
    ReadError, WriteError, BlockError, SkippedError
        If the first block ends the run.
    """
    paths = plan.paths
    known, history = read_stamp(paths.plan), read_history(paths.journal)
    learned = Learned.read(paths.outputs)
    if not overwrite:
        _keep_results(plan, known, history, learned)
        check_table(plan)
    if overwrite or known != plan.stamp:
        _remove(plan, learned)
        learned, history = None, History()
    _compare_code(plan, history)
    plan.write()
    paths.journal.mkdir(parents=True, exist_ok=True)
    waiting = list_waiting(plan, history)
    tried, suspects = History(), _find_suspects(waiting, history)
    _skip_lethal(plan, suspects, tried)
    if learned is None:
        learned = _declare(plan, overwrite) or _learn(plan, overwrite, waiting, tried)
    elif not history.done:  # it was ended before they were whole
        _create_targets(plan, learned)
    _check_outputs(plan, learned)
    if waiting:
        paths.whole.unlink(missing_ok=True)
    _try_alone(plan, learned, suspects, tried)
    # As it was before: what a worker of an earlier run has done since may not be in the targets.
    waiting = [number for number in waiting if number not in tried.ended]
    return Prepared(learned, waiting, tried)


def list_waiting(plan: Plan, history: History) -> list[int]:
    """Return the numbers of the blocks that are not done: also those that were skipped.

    Those whose process was lost come last, so that one that ends every run keeps none waiting.
    """
    done = history.done
    waiting = [number for number in range(len(plan.grid)) if number not in done]
    return sorted(waiting, key=lambda number: history.n_starts.get(number, 0))


def _keep_results(plan: Plan, known: str | None, history: History, learned: Learned | None) -> None:
    """Refuse to go on from blocks that were done for something else, or nobody knows for what."""
    if not history.done:
        return
    if known != plan.stamp:
        raise InputError(
            f"{plan.out_dir} has the results of other settings, or of another volume (see "
            f"{plan.paths.plan}); name another folder, or give overwrite."
        )
    if learned is None:
        raise InputError(
            f"{plan.paths.outputs}, which tells where the results of blocks are that are done, is "
            "gone; to do them again, give overwrite, or another folder."
        )


def _find_suspects(waiting: Sequence[int], history: History) -> dict[int, int]:
    """Return blocks that several runs have lost, each of which may have ended them; how often."""
    n_lost = {number: history.n_starts.get(number, 0) for number in waiting}
    return {number: n for number, n in n_lost.items() if n >= MOST_LOSSES}


def _skip_lethal(plan: Plan, suspects: Mapping[int, int], tried: History) -> None:
    """Note as skipped the only block that was lost with several runs, or that was lost alone."""
    most = MOST_LOSSES if len(suspects) == 1 else MOST_LOSSES + 1
    lethal = [number for number, n_lost in suspects.items() if n_lost >= most]
    if not lethal:
        return
    with LineWriter(name_journal(plan.paths.journal)) as lines:
        for number in lethal:
            tried.ended[number] = blame(plan, number, lines)
            advance(UNIT, 1)
    check_skipped(tried, plan.config.max_skipped)


def _try_alone(plan: Plan, learned: Learned, suspects: Mapping[int, int], tried: History) -> None:
    """Do one by one what was lost together, so that only the one to blame is lost again."""
    numbers = [number for number in suspects if number not in tried.ended]
    if not numbers:
        return
    worker = Worker(plan, learned)
    with LineWriter(name_journal(plan.paths.journal)) as lines:
        for number in numbers:
            tried.ended[number] = ended = worker.compute(number, lines)
            advance(UNIT, 1)
            advance(VOLUME, ended.n_bytes // MIB)
    check_skipped(tried, plan.config.max_skipped)


def _check_outputs(plan: Plan, learned: Learned) -> None:
    """Refuse to go on from blocks whose voxels have been removed."""
    is_whole = plan.paths.whole.is_file()
    for name, output in learned.outputs.items():
        path = Path(output.path) if is_whole else find_target(plan, output)
        if not (output.kind == "boss" or path.exists()):
            raise InputError(
                f"{path}, the output {name} of blocks that are done, is gone; to do them again, "
                "give overwrite, or another folder."
            )


def _remove(plan: Plan, learned: Learned | None) -> None:
    """Remove what an earlier run has made, as far as it is known, and this run may.

    That is what lies in its folder, and what the plan names as an output of its own.

    Raises
    ------
    InputError
        If something has the name of an output that no run has made; then nothing is removed.
    """
    paths = plan.paths
    named = [
        place_path(each.path or f"{name}.zarr", plan.out_dir)
        for name, each in (plan.config.outputs or {}).items()
    ]
    former = [each.path for each in learned.outputs.values()] if learned else []
    kept = [each for each in former if each not in named and not is_inside(each, plan.out_dir)]
    removed = [Path(each) for each in former if "://" not in each and each not in kept]
    for path in {*removed, *(Path(each) for each in named if "://" not in each)}:
        _check_replaceable(path)
    # First, so that nothing that is half removed is taken for done.
    for path in list_journals(paths.journal):
        path.unlink()
    staged = [paths.find_staged(name) for name in learned.outputs] if learned else []
    for path in (*removed, *staged, paths.parts):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    own = [path for path in list_own_tables(plan) if _may_remove(path, plan)]
    files = (paths.plan, paths.outputs, paths.whole, paths.blocks_table, paths.skipped_table)
    for path in (*own, paths.own_tables, *files):
        path.unlink(missing_ok=True)


def _may_remove(table: Path, plan: Plan) -> bool:
    return is_inside(table, plan.out_dir) or table == find_table(plan)


def _check_replaceable(path: Path) -> None:
    """Refuse to write over what can be no output of an earlier run."""
    if path.suffix == ".zarr":
        check_own(path)
    elif path.is_dir():
        raise InputError(
            f"{path}, to which an output goes, is there already, as a folder; give another path."
        )


def _compare_code(plan: Plan, history: History) -> None:
    """Say if the function has another text than in the run before: what is done stays."""
    path = plan.paths.code
    code = fingerprint(read_code(plan.function)).encode()
    if history.done and path.is_file() and path.read_bytes() != code:
        logger.warning(
            "The function has changed since the last run.  Blocks that are done stay as they are; "
            "to do all of them again, give overwrite, or another folder."
        )
    write_if_changed(path, code)


def _declare(plan: Plan, overwrite: bool) -> Learned | None:
    """Return what the configuration says of all results; None if it leaves something open."""
    asked = plan.config.outputs
    if not asked or any(each.dtype is None for each in asked.values()):
        return None
    return _create(plan, {name: each.dtype for name, each in asked.items()}, False, overwrite)


def _create(plan: Plan, dtypes: Mapping[str, Any], has_records: bool, overwrite: bool) -> Learned:
    asked, default = plan.config.outputs or {}, OutputFields.model_validate({})
    outputs = {
        name: plan_output(name, asked.get(name, default), np.dtype(dtype), plan)
        for name, dtype in dtypes.items()
    }
    check_places(plan, {name: each.path for name, each in outputs.items()})
    for output in outputs.values():
        if output.kind != "boss" and overwrite:
            _check_replaceable(Path(output.path))
        elif output.kind != "boss":
            _keep_others(output)
    learned = Learned(outputs, has_records)
    # First, so that what a run that is killed here has made is known to be ours.
    learned.write(plan.paths.outputs)
    _create_targets(plan, learned)
    return learned


def _keep_others(output: Output) -> None:
    """Refuse to write over what no run into this folder has made."""
    if Path(output.path).exists():
        raise InputError(
            f"{output.path}, to which the output {output.name} goes, is there already, and not "
            "of a run into this folder; give another path, or overwrite."
        )


def _create_targets(plan: Plan, learned: Learned) -> None:
    """Make what is not there yet; a worker of an earlier run may still write to what is."""
    first = next(iter(plan.open_channels().values()))
    for output in learned.outputs.values():
        if not has_target(plan, output):
            create_target(plan, output, first)


def _learn(plan: Plan, overwrite: bool, waiting: Sequence[int], tried: History) -> Learned:
    """Do the first block, and make what its results, and those of all others, are written to.

    A block that is skipped, or for which it returns nothing, tells nothing; then another one is
    tried.
    """

    def create(returned: Returned) -> Learned:
        _check_names(plan.config, returned.arrays)
        dtypes = {name: values.dtype for name, values in returned.arrays.items()}
        return _create(plan, dtypes, returned.has_records, overwrite)

    worker = Worker(plan, None, create)
    with LineWriter(name_journal(plan.paths.journal)) as lines:
        for number in choose_tried([each for each in waiting if each not in tried.ended]):
            ended = worker.compute(number, lines)
            tried.ended[number] = ended
            advance(UNIT, 1)
            advance(VOLUME, ended.n_bytes // MIB)
            if worker.learned is not None:
                return worker.learned
            check_skipped(tried, plan.config.max_skipped)
        if tried.done:
            return worker.learn_nothing(lines)
    failed = tried.skipped
    raise InputError(
        f"The function has failed on {'all' if len(failed) == len(plan.grid) else 'the first'} "
        f"{count(len(failed), 'block')} that were tried, so that it is not known what it returns; "
        f"on block {failed[0].key}: {failed[0].error}\n{failed[0].traceback.rstrip()}"
    )


def choose_tried(waiting: Sequence[int]) -> list[int]:
    """Return the numbers of the blocks that may be first: those inside are less often empty."""
    n = len(waiting)
    return list(dict.fromkeys(waiting[i] for i in (0, n // 2, n - 1) if n))


def _check_names(config: Config, arrays: Iterable[str]) -> None:
    """Refuse outputs that the function does not return, and others."""
    for name in arrays:
        check_output_name(name)
    if config.outputs is not None and set(config.outputs) != set(arrays):
        raise InputError(
            f"outputs names {', '.join(config.outputs) or 'nothing'}, and the function returned "
            f"{', '.join(arrays) or 'no array'}; name what it returns (one array without a name is "
            "called as the first of outputs)."
        )
