"""The blocks of diagnostics, opened, and the maps that are made of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.limits import LEVEL, Limits, compute_cohens_d, compute_partial_r2_limits
from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.threads import Threads
from nipype_blm.data.maps import MapInfo
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile
from nipype_blm.io.stamps import diagnostics_stamp
from nipype_blm.results.diagnostics import MAPS, SAVED
from nipype_blm.results.export import ExportedKind, ExportedMap
from nipype_blm.results.results import ContrastResults, Results
from nipype_blm.results.saved import FILE, FOLDER

_KINDS = {each.kind: each for each in MAPS}
_LIMITS = ("estimate", f"lower {LEVEL:.0%} limit", f"upper {LEVEL:.0%} limit")


def stamp_of(results: Results, block: slice, save: Sequence[str]) -> str:
    """Return the fingerprint of the diagnostics of a block."""
    model = (results.folder / FOLDER / FILE).read_bytes()
    return diagnostics_stamp(model, block, save)


def choose_dtype(results: Results) -> np.dtype[Any]:
    """Return the type of the values of maps: single precision, if all of the run's have it."""
    names = [name for name in ("beta", "llh", "resms", "sigma2") if results.find(name)]
    is_double = any(results.dtype(name).itemsize > 4 for name in names)
    return np.dtype("float64" if is_double else "float32")


class DiagnosedBlocks:
    """The files of all blocks, checked."""

    def __init__(self, results: Results, files: Sequence[Path | str], save: Sequence[str]) -> None:
        self.files = [ArrayFile(path) for path in files]
        end = 0
        for file in self.files:
            start, stop = file.meta
            if start != end or file.stamp != stamp_of(results, slice(start, stop), save):
                raise InputError(
                    f"{file.path} does not have the next voxels of {results.folder}, or is of "
                    "another model or with other things saved; compute the diagnostics again."
                )
            end = stop
        if end != results.n_fitted:
            raise InputError(
                f"the blocks have {end:,} of the {results.n_fitted:,} voxels of {results.folder}; "
                "give the files of all blocks."
            )

    def sums(self, of: str, names: Sequence[str]) -> list[list[NDArray[Any]]]:
        """Return the sums of each block."""
        return [[file.read(f"{of}/{name}") for name in names] for file in self.files]

    def count_infinite(self) -> Sequence[int]:
        """Return how many values of each image are infinite."""
        return [int(n) for n in np.sum([file.read("infinite") for file in self.files], axis=0)]

    def find_same(self) -> dict[int, list[int]]:
        """Return the images that have the values of others at all voxels, and which these are."""
        digests = np.stack([file.read("digests") for file in self.files])
        numbers = np.unique(digests, axis=1, return_inverse=True)[1].reshape(-1)
        alike = [np.flatnonzero(numbers == k).tolist() for k in np.unique(numbers)]
        return {i: [k for k in each if k != i] for each in alike if len(each) > 1 for i in each}

    def vector(self, name: str) -> FloatArray:
        """Return a map of one volume at all voxels."""
        return np.concatenate([file.read(name) for file in self.files])

    def rows(self, name: str, rows: slice) -> list[FloatArray]:
        """Return volumes of a map at all voxels."""
        parts = [file.read_rows(name, rows) for file in self.files]
        return list(np.concatenate(parts, axis=1))


class _DiagnosticMap(ExportedMap):
    """A map whose type is chosen as that of the run's maps; missing values stay missing."""

    def convert(self) -> list[NDArray[Any]]:
        """Return the volumes in the type of the file."""
        with np.errstate(over="ignore"):
            return [values.astype(self.dtype) for values in self.read()]


def list_maps(results: Results, blocks: DiagnosedBlocks, threads: Threads) -> Iterator[ExportedMap]:
    """Yield the maps of the whole model, and of its contrasts."""
    is_mixed = bool(results.factors)
    of_residuals = "conditional residuals, y - X beta - Z b" if is_mixed else "residuals"
    sd = "Square root of sigma2." if is_mixed else "Square root of resms."
    yield _make(results, blocks, "residualSD", sd, {"Units": "y"})
    words = f"Skewness of the {of_residuals}, over the images present."
    yield _make(results, blocks, "residualSkewness", words)
    words = "Leverage of the images present: by how much the fit of an image follows its own value."
    yield _make_volumes(results, blocks, "leverage", words, ("mean", "largest"))
    for number, contrast in enumerate(results.contrasts.values()):
        if is_mixed:
            yield _make_se_ratio(blocks, contrast, number)
        else:
            yield from _make_effects(blocks, contrast, threads)


def _make(
    results: Results,
    blocks: DiagnosedBlocks,
    kind: str,
    words: str,
    details: dict[str, Any] | None = None,
) -> ExportedMap:
    """Return a map of one volume."""
    info = MapInfo(_KINDS[kind].file, words, _KINDS[kind].intent, details=details)
    return _finish(results, blocks, _KINDS[kind], info, lambda: [blocks.vector(kind)])


def _make_volumes(
    results: Results, blocks: DiagnosedBlocks, kind: str, words: str, labels: tuple[str, ...]
) -> ExportedMap:
    info = MapInfo(_KINDS[kind].file, words, _KINDS[kind].intent, volumes=labels)
    read = partial(blocks.rows, kind, slice(0, len(labels)))
    return _finish(results, blocks, _KINDS[kind], info, read)


def _finish(
    results: Results,
    blocks: DiagnosedBlocks,
    declared: ExportedKind,
    info: MapInfo,
    read: Callable[[], Sequence[FloatArray]],
) -> ExportedMap:
    source, dtype = blocks.files[0].path, choose_dtype(results)
    return _DiagnosticMap(info, source, read, dtype, declared.output)


def _make_se_ratio(blocks: DiagnosedBlocks, contrast: ContrastResults, number: int) -> ExportedMap:
    words = "Standard error over that of least squares, which ignores the random factors"
    info = _describe(contrast, "seRatio", words)
    read = partial(blocks.rows, "seRatio", slice(number, number + 1))
    return _finish(contrast.results, blocks, _KINDS["seRatio"], info, read)


def _make_effects(
    blocks: DiagnosedBlocks, contrast: ContrastResults, threads: Threads
) -> Iterator[ExportedMap]:
    """Yield standardised effects of a contrast of a linear model, and their limits."""
    results = contrast.results
    if not contrast.is_f:
        words = "Cohen's d: the effect in residual standard deviations"
        info = _describe(contrast, "cohensD", words)._replace(volumes=_LIMITS)
        read = partial(_read_cohens_d, contrast, threads)
        yield _finish(results, blocks, _KINDS["cohensD"], info, read)
    info = _describe(contrast, "partialR2", "Partial R2")._replace(volumes=_LIMITS)
    read = partial(_read_partial_r2, contrast, threads)
    yield _finish(results, blocks, _KINDS["partialR2"], info, read)


def _describe(contrast: ContrastResults, kind: str, words: str) -> MapInfo:
    weights = contrast.weights.tolist()
    said = {
        "Name": contrast.name,
        "Test": "F" if contrast.is_f else "T",
        "Weights": weights if contrast.is_f else weights[0],
    }
    name = _KINDS[kind].file.format(label=contrast.label)
    return MapInfo(name, f"{words}: {contrast.name}", details={"Contrast": said})


def _read_cohens_d(contrast: ContrastResults, threads: Threads) -> Sequence[FloatArray]:
    results = contrast.results
    variance = contrast.vector("variance") / results.vector("resms")
    T, dof = contrast.vector("stat"), contrast.vector("dof")
    return _clear(contrast, compute_cohens_d(T, dof, variance, threads))


def _read_partial_r2(contrast: ContrastResults, threads: Threads) -> Sequence[FloatArray]:
    results, stat = contrast.results, contrast.vector("stat")
    F = stat if contrast.is_f else stat**2
    dof, n_obs = contrast.vector("dof"), results.vector("n")
    q = len(contrast.weights)
    return _clear(contrast, compute_partial_r2_limits(F, q, dof, n_obs, threads))


def _clear(contrast: ContrastResults, limits: Limits) -> Sequence[FloatArray]:
    """Return the volumes, 0 where the contrast is not estimable."""
    if not contrast.has_gaps:
        return limits
    is_estimable = contrast.vector("estimable") > 0
    return [np.where(is_estimable, each, 0.0) for each in limits]


def list_saved(
    results: Results, blocks: DiagnosedBlocks, save: Sequence[str]
) -> Iterator[ExportedMap]:
    """Yield the maps of single images and levels; each is read when it is written."""
    for name in save:
        if name != "blups":
            yield from _list_images(results, blocks, SAVED[name][0])
    if "blups" in save:
        yield from _list_levels(results, blocks)


_WORDS = {
    "residuals": "Residuals; not a number where the image is missing.",
    "standardisedResiduals": "Standardised residuals; not a number where the image is missing, or "
    "fitted exactly whatever its value.",
    "fitted": "Fitted values; not a number where the image is missing.",
}


def _list_images(
    results: Results, blocks: DiagnosedBlocks, declared: ExportedKind
) -> Iterator[ExportedMap]:
    kind, width = declared.kind, len(str(len(results.images)))
    for i, image in enumerate(results.images):
        name = declared.file.format(n=f"{i + 1:0{width}}")
        said = {"Image": image.image, "Volume": image.volume}
        info = MapInfo(name, _WORDS[kind], declared.intent, details=said)
        yield _finish(results, blocks, declared, info, partial(blocks.rows, kind, slice(i, i + 1)))


def _list_levels(results: Results, blocks: DiagnosedBlocks) -> Iterator[ExportedMap]:
    """Yield the random effects of each level, and their conditional covariances."""
    of_effects, of_covariances = SAVED["blups"]
    column, entry = 0, 0
    for k, factor in enumerate(results.factors):
        effects = results.effect_names[k]
        pairs = tuple(f"{a} x {b}" for i, a in enumerate(effects) for b in effects[i:])
        width = len(str(factor.n_levels))
        for i, label in enumerate(results.level_names[k]):
            said = {"Factor": factor.name, "Level": label}
            for declared, labels, first, words in (
                (of_effects, effects, column, "Random effects of a level, given the estimates."),
                (of_covariances, pairs, entry, "Covariances of the random effects of a level."),
            ):
                name = declared.file.replace("{n}", "{}").format(k + 1, f"{i + 1:0{width}}")
                info = MapInfo(name, words, declared.intent, (), tuple(labels), said)
                rows = slice(first, first + len(labels))
                read = partial(blocks.rows, declared.kind, rows)
                yield _finish(results, blocks, declared, info, read)
            column, entry = column + len(effects), entry + len(pairs)
