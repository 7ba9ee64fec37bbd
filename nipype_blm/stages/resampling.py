"""Resample contrasts of a folder of results: the scores of each block, and null distributions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp

from nipype_blm.core.clusters.graph import Graph, make_graph, select
from nipype_blm.core.clusters.summaries import DEFAULTS, SummaryOptions, summarise_many
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.resampling.declared import RESAMPLINGS, Resampling
from nipype_blm.core.resampling.exchange import Exchange
from nipype_blm.core.resampling.flipping import Resampled as ResampledShares
from nipype_blm.core.resampling.flips import RandomPart
from nipype_blm.core.resampling.hypotheses import make_hypothesis
from nipype_blm.core.resampling.normal import find_peaks, share_to_z
from nipype_blm.core.threads import Threads
from nipype_blm.data.spec import ModelSpec
from nipype_blm.data.specfile import read_model
from nipype_blm.io.arrayfile import ArrayFile, fingerprint, write_arrays
from nipype_blm.model.inference import PANEL
from nipype_blm.progress import advance
from nipype_blm.stages.compiling import RESAMPLING_S, announcing_compilation
from nipype_blm.stages.tiles import Tiles

_MAPS_BYTES = 2**26  # of resampled maps that are held at a time: 64 of 2 mm
DEGENERATE = "degenerate"  # counts of resamplings that say nothing, beside the summaries


@dataclass(frozen=True)
class Resampled:
    """What is resampled, and how; a file of its own, which all stages read."""

    resampling: str
    names: tuple[str, ...]  # of contrasts
    labels: tuple[str, ...]
    is_f: tuple[bool, ...]
    exhaustive: bool
    sides: str  # of T: two or one
    seed: int
    summaries: tuple[str, ...]
    height: float
    neighbours: int
    matrices: tuple[FloatArray, ...] = field(repr=False)
    exchange: Exchange = field(repr=False)
    tfce_e: float = DEFAULTS.E
    tfce_h: float = DEFAULTS.H
    stamp: str = ""  # of all that scores depend on, the images too

    @property
    def method(self) -> Resampling:
        """The entry of the table of resamplings."""
        return RESAMPLINGS[self.resampling]

    @property
    def options(self) -> SummaryOptions:
        """What summaries are told."""
        return SummaryOptions(self.height, self.tfce_e, self.tfce_h)

    def is_two_sided(self, number: int) -> bool:
        """Return whether both sides of a contrast count."""
        return self.sides == "two" and not self.is_f[number]

    @property
    def ignores_sign(self) -> bool:
        """Whether a flip and its opposite are one: both sides of T count, or there is no T."""
        return self.sides == "two" or all(self.is_f)

    @property
    def n_distinct(self) -> int:
        """How many resamplings differ."""
        return self.method.count(self.exchange, self.ignores_sign)

    @property
    def nulls_stamp(self) -> str:
        """Fingerprint of a null distribution, however many resamplings it has."""
        how = (self.seed, self.exhaustive, self.sides, self.summaries, self.height)
        exponents = self.options[1:]
        usual = exponents == DEFAULTS[1:]  # as before there was another choice
        return fingerprint(self.stamp, repr((*how, self.neighbours, *(() if usual else exponents))))

    def draw(self, numbers: range) -> NDArray[Any]:
        """Return the weights of the resamplings with these numbers."""
        return self.method.draw(
            self.exchange, self.seed, numbers, self.exhaustive, self.ignores_sign
        )

    def scores_stamp(self, columns: slice) -> str:
        """Return the fingerprint of the scores of a block of voxels, however others are cut."""
        return fingerprint(self.stamp, f"scores {columns.start}-{columns.stop}")

    def range_stamp(self, start: int, stop: int) -> str:
        """Return the fingerprint of the peaks of some resamplings."""
        return fingerprint(self.nulls_stamp, f"{start}-{stop}")


def write_resampled(path: Path, what: Resampled) -> Path:
    """Write what is resampled."""
    exchange = what.exchange
    arrays: dict[str, NDArray[Any]] = {"group": exchange.group}
    if exchange.kind is not None:
        arrays["kind"] = exchange.kind
    arrays |= {f"{i}/matrix": matrix for i, matrix in enumerate(what.matrices)}
    meta = {
        name: getattr(what, name)
        for name in Resampled.__dataclass_fields__
        if name not in ("matrices", "exchange", "stamp")
    }
    meta |= {"within": exchange.within, "whole": exchange.whole}
    return write_arrays(path, what.stamp, arrays, meta)


def read_resampled(path: Path | str) -> Resampled:
    """Read what is resampled."""
    file = ArrayFile(path)
    meta: dict[str, Any] = dict(file.meta)
    kind = file.read("kind") if "kind" in file.names else None
    group = file.read("group")
    exchange = Exchange(group.size, group, meta.pop("within"), meta.pop("whole"), kind)
    matrices = tuple(file.read(f"{i}/matrix") for i in range(len(meta["names"])))
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in meta.items()
    }
    return Resampled(**values, matrices=matrices, exchange=exchange, stamp=file.stamp)


def compute_scores(
    model_file: Path | str,
    resampled_file: Path | str,
    batch_files: Sequence[Path | str],
    tile_files: Sequence[Path | str],
    block: int,
    out_file: Path,
    n_threads: int = 1,
) -> Path:
    """Fit the null model of each contrast at a block of voxels, and write the scores.

    The array of contrast i and name a is called ``i/a``.

    Parameters
    ----------
    model_file, batch_files : path, sequence of paths
        As `Reopened.write` wrote them.
    resampled_file : path
        As `write_resampled` wrote it.
    tile_files : sequence of paths
        Of all batches, in the same order.
    """
    _, spec = read_model(model_file)
    what = read_resampled(resampled_file)
    columns = spec.block(block)
    random = None if spec.options is None else RandomPart(list(spec.factors), spec.options)
    arrays: dict[str, NDArray[Any]] = {}
    with Threads(n_threads) as threads, announcing_compilation("resamples", RESAMPLING_S):
        Y = Tiles(spec, batch_files, tile_files).read(columns, threads)
        for number, matrix in enumerate(what.matrices):
            scores = what.method.prepare(
                Y,
                make_hypothesis(spec.X, matrix),
                what.exchange.group,
                what.exchange.n_groups,
                random,
                spec.minimum_n,
                spec.allowed[columns],
                threads,
            )
            arrays |= {f"{number}/{name}": array for name, array in scores._asdict().items()}
    advance("voxels", columns.stop - columns.start)
    return write_arrays(out_file, what.scores_stamp(columns), arrays)


class ScoreFiles:
    """The scores of all blocks; those of one block and contrast are read at a time."""

    def __init__(self, spec: ModelSpec, what: Resampled, paths: Sequence[Path | str]) -> None:
        self._spec, self._what = spec, what
        self._files = [
            ArrayFile(path, what.scores_stamp(spec.block(block)))
            for block, path in enumerate(paths)
        ]

    def read_m(self, number: int) -> NDArray[np.int32]:
        """Return m of a contrast at all voxels: 0 where it cannot be resampled."""
        return np.concatenate([file.read(f"{number}/m") for file in self._files])

    def _resample_blocks(
        self, number: int, numbers: range, threads: Threads
    ) -> Iterator[tuple[slice, NDArray[np.int32], ResampledShares]]:
        """Yield the voxels of each block, m, and the shares of some resamplings there."""
        method, weights = self._what.method, self._what.draw(numbers)
        prefix = f"{number}/"
        for block, file in enumerate(self._files):
            names = [name for name in file.names if name.startswith(prefix)]
            arrays = {name.removeprefix(prefix): file.read(name) for name in names}
            found = method.compute(method.scores(**arrays), weights, threads)
            yield self._spec.block(block), arrays["m"], found

    def _find_q(self, number: int) -> int:
        return make_hypothesis(self._spec.X, self._what.matrices[number]).q

    def resample(
        self, number: int, numbers: range, threads: Threads
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the maps of some resamplings, at the voxels that are tested.

        Returns
        -------
        z : array of shape (n_maps, n_tested)
        n_degenerate : array of shape (n_maps,)
        """
        is_tested = self.read_m(number) > 0
        place = np.cumsum(is_tested) - 1
        z = np.empty((len(numbers), int(is_tested.sum())), np.float32)
        n_degenerate = np.zeros(len(numbers), np.int64)
        q, is_f = self._find_q(number), self._what.is_f[number]
        for columns, m, found in self._resample_blocks(number, numbers, threads):
            n_degenerate += found.n_degenerate
            kept = is_tested[columns]
            if kept.any():
                of_block = share_to_z(found.share, m, q, found.share, threads)[kept]
                start = place[columns][kept][0]
                z[:, start : start + len(of_block)] = of_block.T
        return (_take_upper(z) if is_f and q == 1 else z), n_degenerate

    def find_peaks(
        self, number: int, numbers: range, threads: Threads
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return the largest z of some resamplings, (n_maps,), without their maps."""
        peaks = np.full(len(numbers), -np.inf, np.float32)
        n_degenerate = np.zeros(len(numbers), np.int64)
        q, is_f = self._find_q(number), self._what.is_f[number]
        two_sided = self._what.is_two_sided(number) or (is_f and q == 1)
        for _, m, found in self._resample_blocks(number, numbers, threads):
            n_degenerate += found.n_degenerate
            np.maximum(peaks, find_peaks(found.share, m, q, two_sided), out=peaks)
        return (_take_upper(peaks) if is_f and q == 1 else peaks).astype(float), n_degenerate


def _take_upper(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the normal deviates of F = T^2 of those of T."""
    log_p = np.log(2) + log_ndtr(-np.abs(z.astype(float)))
    return np.asarray(-ndtri_exp(np.minimum(log_p, 0.0)), np.float32)


def find_graph(spec: ModelSpec, neighbours: int) -> Graph:
    """Return which voxels of the analysis touch."""
    return make_graph(spec.space.find_neighbours(neighbours or None))


def compute_nulls(
    model_file: Path | str,
    resampled_file: Path | str,
    scores_files: Sequence[Path | str],
    start: int,
    stop: int,
    out_file: Path,
    n_threads: int = 1,
) -> Path:
    """Write the peaks of the summaries of each contrast, of the resamplings with some numbers.

    The array of contrast i and summary s is called ``i/s``.

    Parameters
    ----------
    scores_files : sequence of paths
        Of all blocks, in order.
    start, stop : int
        First number, a multiple of `PANEL`, and that behind the last.
    """
    _, spec = read_model(model_file)
    what = read_resampled(resampled_file)
    files = ScoreFiles(spec, what, scores_files)
    arrays: dict[str, NDArray[Any]] = {}
    with Threads(n_threads) as threads, announcing_compilation("resamples", RESAMPLING_S):
        for number in range(len(what.names)):
            found = _summarise(spec, what, files, number, range(start, stop), threads)
            arrays |= {f"{number}/{name}": values for name, values in found.items()}
    return write_arrays(out_file, what.range_stamp(start, stop), arrays)


def _summarise(
    spec: ModelSpec,
    what: Resampled,
    files: ScoreFiles,
    number: int,
    numbers: range,
    threads: Threads,
) -> dict[str, NDArray[Any]]:
    """Return the peaks of a contrast, some maps at a time."""
    names = list(what.summaries)
    needs_maps = names != ["voxel"]
    graph = None
    if needs_maps:
        graph = select(find_graph(spec, what.neighbours), files.read_m(number) > 0)
    # The largest voxel takes no more than the maps of a block.
    n_held = spec.n_voxels if needs_maps else spec.voxels_per_block
    width = max(1, _MAPS_BYTES // (4 * PANEL * max(1, n_held))) * PANEL
    peaks, counts = [], []
    for first in range(numbers.start, numbers.stop, width):
        some = range(first, min(first + width, numbers.stop))
        if graph is None:
            of_maps, n_degenerate = files.find_peaks(number, some, threads)
            peaks.append(of_maps[None])
        else:
            z, n_degenerate = files.resample(number, some, threads)
            two_sided = what.is_two_sided(number)
            peaks.append(summarise_many(z.T, graph, names, two_sided, what.options, threads))
        counts.append(n_degenerate)
        advance("resamplings", len(some))
    found = dict(zip(names, np.concatenate(peaks, axis=1), strict=True))
    return found | {DEGENERATE: np.concatenate(counts)}
