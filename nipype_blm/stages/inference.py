"""Corrected inference on a folder of results: plan it, and run it in one process."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nipype_blm.core.clusters.summaries import SUMMARIES
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.core.resampling.exchange import Exchange
from nipype_blm.data.space import check_neighbourhood
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint, is_whole
from nipype_blm.model.inference import (
    InferenceOptions,
    plan_batch,
    plan_block,
    plan_ranges,
    predict_disk,
)
from nipype_blm.results.export import select_contrasts
from nipype_blm.results.inferred import FOLDER, Inferred, find_done
from nipype_blm.results.results import ContrastResults, Results
from nipype_blm.stages.corrected import write_corrected
from nipype_blm.stages.exchanging import (
    Tested,
    check_atlas,
    check_exchange,
    describe_exchange,
    find_exchange,
    find_notices,
    find_untestable,
)
from nipype_blm.stages.folders import check_writable, find_shortages
from nipype_blm.stages.reopened import Pieces, Reopened, reopen
from nipype_blm.stages.resampling import (
    Resampled,
    compute_nulls,
    compute_scores,
    write_resampled,
)
from nipype_blm.stages.tiles import compute_tiles, tile_stamp
from nipype_blm.tasks.runner import run_tasks
from nipype_blm.tasks.task import Task

_JOURNAL = "journal.jsonl"


class InferenceFiles(NamedTuple):
    """What planning leaves for the stages that follow."""

    model_file: Path
    batch_files: list[Path]
    resampled_file: Path
    blocks: list[int]
    starts: list[int]  # of the resamplings of each task: the first number
    stops: list[int]  # and that behind the last
    n: int  # resamplings, with those that are done


@dataclass(frozen=True)
class PreparedInference:
    """An inference that has been checked and can start."""

    options: InferenceOptions
    reopened: Reopened
    what: Resampled
    n: int  # resamplings: all that there are, where they are fewer than asked for
    n_distinct: int  # resamplings that differ
    n_done: int  # of an earlier run, that are taken over
    notices: list[str]

    @property
    def results(self) -> Results:
        """The folder of results."""
        return self.reopened.results

    @property
    def least_p(self) -> float:
        """The least corrected p that can come out."""
        return 1 / self.n

    @cached_property
    def disk_bytes(self) -> int:
        """Bytes of intermediate files."""
        spec, what = self.reopened.spec, self.what
        incomplete = int(np.count_nonzero(self.results.vector("n") < spec.n_obs))
        return predict_disk(
            spec.n_obs,
            np.dtype(spec.staged_dtype).itemsize,
            self.results.n_fitted,
            self.results.n_fitted if spec.options is not None else incomplete,
            spec.n_params,
            what.exchange.n_groups,
            sum(len(matrix) for matrix in what.matrices),
        )

    def describe(self) -> str:
        """Return what is going to be done, and the least p that can come out."""
        what = self.what
        exchanged = describe_exchange(what.exchange)
        how = "all" if what.exhaustive else f"{self.n:,} of the"
        many = f"{self.n_distinct:,}" if self.n_distinct < 10**9 else "more than 10^9"
        done = f", {self.n_done:,} of them done" if self.n_done else ""
        with_tail = self.options.tail and not what.exhaustive
        tail = "; a fitted tail may give less" if with_tail else ""
        return (
            f"{what.resampling} of {exchanged}: {how} {many} resamplings that differ{done}. The "
            f"least p that counting can give is {self.least_p:.3g}{tail}. "
            f"Intermediate files take up to {self.disk_bytes / 1e6:,.0f} MB."
        )

    @cached_property
    def ranges(self) -> list[tuple[int, int]]:
        """The resamplings of each task."""
        return plan_ranges(self.n, self.n_done)

    def write(self, folder: Path) -> InferenceFiles:
        """Write the plan."""
        folder.mkdir(parents=True, exist_ok=True)
        model_file, batch_files = self.reopened.write(folder)
        resampled_file = write_resampled(folder / "resampled.blm", self.what)
        blocks = list(range(self.reopened.spec.n_blocks))
        starts, stops = map(list, zip(*self.ranges, strict=True)) if self.ranges else ([], [])
        return InferenceFiles(
            model_file, batch_files, resampled_file, blocks, starts, stops, self.n
        )


def prepare_inference(
    results_dir: Path,
    options: InferenceOptions,
    max_bytes: int,
    parallel_nodes: int = 1,
    pieces: Pieces | None = None,
    work_dir: Path | None = None,
) -> PreparedInference:
    """Check all that can be checked before any value is read.

    Parameters
    ----------
    results_dir : Path
        Folder of results.
    options : InferenceOptions
    max_bytes : int
        Memory of one process.
    parallel_nodes : int
        Nodes that run at the same time.
    pieces : Pieces, optional
        How the work is cut; planned if not given.
    work_dir : Path, optional
        Where intermediate files will go, and those of the fit are, if any; default: work in the
        folder of results.

    Raises
    ------
    InputError
        With all faults together.
    """
    results = Results(results_dir)
    work = results.folder / "work" if work_dir is None else work_dir
    check_writable(results.folder / FOLDER, work)
    contrasts = select_contrasts(results, options.contrasts)
    tested = Tested.of_results(results)
    exchange = find_exchange(tested, options)
    check_exchange(tested, options, exchange)
    method = RESAMPLINGS[options.resampling]
    ignores_sign = options.sides == "two" or all(each.is_f for each in contrasts)
    n_distinct = method.count(exchange, ignores_sign)
    n = min(options.n, n_distinct)
    n_obs, n_params = results.X.shape
    n_voxels = int(np.count_nonzero(results.array("status")))
    pieces = pieces or Pieces(
        plan_batch(n_obs, parallel_nodes),
        plan_block(n_obs, n_params, n_voxels, max_bytes, parallel_nodes),
    )
    reopened = reopen(results, pieces, work_dir)
    what = Resampled(
        resampling=options.resampling,
        names=tuple(each.name for each in contrasts),
        labels=tuple(each.label for each in contrasts),
        is_f=tuple(each.is_f for each in contrasts),
        exhaustive=options.n >= n_distinct,
        sides=options.sides,
        seed=options.seed,
        summaries=options.summaries or tuple(SUMMARIES),
        height=options.height,
        tfce_e=options.tfce_e,
        tfce_h=options.tfce_h,
        neighbours=check_neighbourhood(reopened.spec.space, options.neighbours),
        matrices=tuple(each.weights for each in contrasts),
        exchange=exchange,
        stamp=_stamp(reopened, contrasts, options, exchange),
    )
    check_atlas(options, results.space)
    n_done = find_done(results.folder / FOLDER, what.nulls_stamp)
    notices = find_notices(options, exchange, n, n_distinct)
    if options.resampling == "permute":
        weights = {each.name: each.weights for each in contrasts}
        notices += find_untestable(results.X, weights, exchange)
    done = min(n_done, n)
    prepared = PreparedInference(options, reopened, what, n, n_distinct, done, notices)
    shortages = find_shortages([(work, prepared.disk_bytes)], work)
    if shortages:
        raise InputError(shortages)
    return prepared


def _stamp(
    reopened: Reopened,
    contrasts: Sequence[ContrastResults],
    options: InferenceOptions,
    exchange: Exchange,
) -> str:
    """Return the fingerprint of all that scores depend on."""
    weights = repr([(each.name, each.is_f, each.weights.tolist()) for each in contrasts])
    group = exchange.group.tobytes()
    how = repr((options.resampling, exchange.within, exchange.whole))
    return fingerprint(reopened.stamp, weights, group, how)


def run_inference(
    prepared: PreparedInference, work_dir: Path, n_threads: int = 1, keep: bool = False
) -> Inferred:
    """Do all stages in this process; intermediate files are in `work_dir` and go at the end."""
    files = prepared.write(work_dir)
    do = partial(run_tasks, journal=work_dir / _JOURNAL, is_whole=is_whole)
    tiles = do(list_tiles(prepared, files, work_dir, n_threads))
    scores = do(list_scores(prepared, files, tiles, work_dir, n_threads))
    nulls = do(list_nulls(prepared, files, scores, work_dir, n_threads))
    done = write_corrected(
        prepared.results.folder,
        files.model_file,
        files.resampled_file,
        scores,
        nulls,
        list(zip(files.starts, files.stops, strict=True)),
        files.n,
        prepared.options,
        files.batch_files,
        tiles,
        n_threads,
    )
    if not keep:
        shutil.rmtree(work_dir, ignore_errors=True)
    return done


def list_tiles(
    prepared: PreparedInference, files: InferenceFiles, folder: Path, n_threads: int
) -> list[Task]:
    """Return the tasks that read the images, one for each batch."""
    tasks = []
    for number, batch in enumerate(files.batch_files):
        out_file = folder / f"tiles_{number:04d}.blm"
        stamp = tile_stamp(prepared.reopened.spec, batch.read_bytes())
        arguments = (files.model_file, batch, out_file, n_threads, prepared.reopened.kept)
        tasks.append(Task(compute_tiles, arguments, out_file, stamp))
    return tasks


def list_scores(
    prepared: PreparedInference,
    files: InferenceFiles,
    tiles: Sequence[Path],
    folder: Path,
    n_threads: int,
) -> list[Task]:
    """Return the tasks that fit null models, one for each block."""
    inputs = (files.model_file, files.resampled_file, files.batch_files, tiles)
    tasks = []
    for block in files.blocks:
        out_file = folder / f"scores_{block:04d}.blm"
        arguments = (*inputs, block, out_file, n_threads)
        stamp = prepared.what.scores_stamp(prepared.reopened.spec.block(block))
        tasks.append(Task(compute_scores, arguments, out_file, stamp))
    return tasks


def list_nulls(
    prepared: PreparedInference,
    files: InferenceFiles,
    scores: Sequence[Path],
    folder: Path,
    n_threads: int,
) -> list[Task]:
    """Return the tasks that resample, one for each range of numbers."""
    inputs = (files.model_file, files.resampled_file, scores)
    tasks = []
    for start, stop in zip(files.starts, files.stops, strict=True):
        out_file = folder / f"nulls_{start:07d}.blm"
        arguments = (*inputs, start, stop, out_file, n_threads)
        stamp = prepared.what.range_stamp(start, stop)
        tasks.append(Task(compute_nulls, arguments, out_file, stamp))
    return tasks
