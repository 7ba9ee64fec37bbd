"""The whole model in one process: every stage in turn, each a list of tasks."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import is_whole
from nipype_blm.io.lock import RUN_LOCK, LockedError, locked
from nipype_blm.io.publish import Claim
from nipype_blm.io.stamps import statistics_stamp
from nipype_blm.private import list_writers, make_private
from nipype_blm.stages.assemble import AssembledMaps, assemble_maps
from nipype_blm.stages.estimates import compute_estimates
from nipype_blm.stages.growth import EarlierPlaces
from nipype_blm.stages.plan import PlanFiles, PreparedRun, write_plan
from nipype_blm.stages.products import compute_products
from nipype_blm.stages.statistics import compute_statistics
from nipype_blm.stages.tiles import remove_others
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Task

WORK_FOLDER = ".blm_work"
_JOURNAL = "journal.jsonl"
_SECONDS_TO_END = 1.0  # of a process that was killed

_logger = logging.getLogger(__name__)


def run_model(
    run: PreparedRun,
    work_dir: Path,
    out_dir: Path,
    claim: Claim,
    n_threads: int = 1,
    compress: bool = False,
    inputs_file: Path | None = None,
) -> AssembledMaps:
    """Fit a prepared model and write its maps; intermediate files stay in `work_dir`.

    What an earlier run has left there, made from the same, is not made again; nor is what it has
    read of a batch read again.
    """
    plan = write_plan(run, work_dir, EarlierPlaces.of_work_folder(work_dir).aside)
    do = partial(run_tasks, journal=work_dir / _JOURNAL, is_whole=is_whole)
    tiles = _find_tiles(run, work_dir)
    has_all = partial(_has_products, tiles=tiles)
    products = do(list_products(run, plan, work_dir, n_threads), is_whole=has_all)
    estimates = do(list_estimates(run, plan, products, work_dir, n_threads))
    statistics = do(list_statistics(run, plan, estimates, work_dir, n_threads))
    maps = assemble_maps(
        plan.model_file,
        plan.contrasts_file,
        plan.batch_files,
        estimates,
        statistics,
        plan.fingerprint,
        out_dir,
        claim,
        compress,
        inputs_file,
        plan.study_file,
    )
    remove_others(list(tiles.values()))
    return maps


def list_products(run: PreparedRun, plan: PlanFiles, folder: Path, n_threads: int) -> list[Task]:
    """Return the tasks that read the images, one for each batch."""
    n_bytes = run.plan.node_bytes(n_threads)
    tasks = []
    tiles, tiles_dir = _find_tiles(run, folder), EarlierPlaces.of_work_folder(folder).tiles
    for number, (batch, stamp) in enumerate(zip(plan.batch_files, run.stamps.batches, strict=True)):
        out_file = _name_products(folder, number)
        checkpoint = EarlierPlaces.of_work_folder(folder).aside / f"{batch.stem}.blm"
        arguments = (
            *(plan.model_file, batch, out_file, n_threads),
            *(checkpoint, tiles_dir, tiles.get(out_file)),
        )
        tasks.append(Task(compute_products, arguments, out_file, stamp, n_bytes))
    return tasks


def _name_products(folder: Path, number: int) -> Path:
    return folder / f"products_{number:04d}.blm"


def _find_tiles(run: PreparedRun, folder: Path) -> dict[Path, Path]:
    """Return where the tile of each file of products goes, if they are to be kept."""
    if not run.plan.tiles_bytes:
        return {}
    names = enumerate(run.tile_names)
    tiles_dir = EarlierPlaces.of_work_folder(folder).tiles
    return {_name_products(folder, number): tiles_dir / name for number, name in names}


def _has_products(path: Path, tiles: Mapping[Path, Path]) -> bool:
    """Return whether products are whole, and so is the tile that belongs to them."""
    return is_whole(path) and (path not in tiles or is_whole(tiles[path]))


def list_estimates(
    run: PreparedRun,
    plan: PlanFiles,
    products: Sequence[Path],
    folder: Path,
    n_threads: int,
) -> list[Task]:
    """Return the tasks that fit the model, one for each block."""
    n_bytes = run.plan.node_bytes(n_threads)
    inputs = (plan.model_file, plan.batch_files, products)
    tasks = []
    for block, stamp in zip(plan.blocks, run.stamps.blocks, strict=True):
        out_file = folder / f"estimates_{block:04d}.blm"
        arguments = (*inputs, block, plan.fingerprint, out_file, n_threads)
        tasks.append(Task(compute_estimates, arguments, out_file, stamp, n_bytes))
    return tasks


def list_statistics(
    run: PreparedRun, plan: PlanFiles, estimates: Sequence[Path], folder: Path, n_threads: int
) -> list[Task]:
    """Return the tasks that test the contrasts, one for each block."""
    contrasts_stamp = run.packed_contrasts[0]
    n_bytes = run.plan.node_bytes(n_threads)
    inputs = (plan.model_file, plan.contrasts_file)
    tasks = []
    for block, file in zip(plan.blocks, estimates, strict=True):
        out_file = folder / f"statistics_{block:04d}.blm"
        arguments = (*inputs, file, block, plan.fingerprint, out_file, n_threads)
        stamp = statistics_stamp(plan.fingerprint, contrasts_stamp, block)
        tasks.append(Task(compute_statistics, arguments, out_file, stamp, n_bytes))
    return tasks


@contextmanager
def work_folder(parent: Path, stays: bool = False) -> Iterator[Path]:
    """Give a folder for intermediate files, which is removed when the context has ended well.

    Else, or if it `stays`, it is left to the next run.  Where another run works in it now, or
    others could have written to it, the folder is a new one, which is removed in any case.
    """
    folder = parent / WORK_FOLDER
    with ExitStack() as stack:
        if _hold(folder, stack):
            yield folder
            if not stays:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            yield Path(stack.enter_context(TemporaryDirectory(prefix=WORK_FOLDER, dir=parent)))


def _hold(folder: Path, stack: ExitStack) -> bool:
    """Have a folder to ourselves, if that is possible."""
    try:
        make_private(folder, "The folder for intermediate files")
        if folder.is_symlink() or list_writers(folder.stat()):
            raise InputError(f"{folder} is not only yours.")
        stack.callback(_remove_if_empty, folder)
        stack.enter_context(locked(folder / RUN_LOCK, _SECONDS_TO_END))
    except (InputError, LockedError, OSError) as error:
        _logger.warning("This run cannot go on from, or be gone on from by, another one: %s", error)
        return False
    return True


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
