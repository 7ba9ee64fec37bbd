"""The maps of a run: which files, what each says of itself, and the assembly of its volumes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.data.kinds import is_map_ending
from nipype_blm.data.maps import MapInfo
from nipype_blm.model.contrasts import Contrast
from nipype_blm.results.blocks import Block
from nipype_blm.results.declared import DECLARED, Declaration, select_declared
from nipype_blm.results.saved import EXCLUDED, is_model_file
from nipype_blm.results.volumes import Run, Volume


@dataclass(frozen=True)
class Map:
    """One map file."""

    info: MapInfo
    volumes: Sequence[Callable[[Block], NDArray[Any]]]  # the values of each at a block
    dtype: str
    everywhere: bool = False  # values at all voxels of the analysis mask, not the fitted
    # Volumes that are nothing but rounding errors where they are small.
    covariances: frozenset[int] = frozenset()

    def assemble(self, blocks: Sequence[Block], n_voxels: int) -> Iterator[NDArray[Any]]:
        """Yield the volumes over the analysis mask, 0 where there is no value.

        Raises
        ------
        OverflowError
            If values are too large or too small for single precision.
        """
        for number, volume in enumerate(self.volumes):
            has_units = self.info.intent == "estimate" and number not in self.covariances
            vector = np.zeros(n_voxels, self.dtype)
            for block in blocks:
                values = volume(block)
                if self.dtype == "float32" and not fits_single(values, has_units):
                    raise OverflowError(f"{self.info.name} does not fit into single precision.")
                vector[block.voxels if self.everywhere else block.fitted] = values
            yield vector


def fits_single(values: NDArray[Any], has_units: bool) -> bool:
    """Return whether values keep their digits, where they are not far below the largest one.

    Small ones without units, such as p-values, may well become 0.
    """
    limits = np.finfo(np.float32)
    largest = np.abs(values).max(initial=0)
    is_small = 0 < largest < limits.tiny / limits.eps
    return bool(largest <= limits.max) and not (has_units and is_small)


def list_maps(run: Run) -> list[Map]:
    """Return all maps of a run."""
    model, n_contrasts = run.spec.model, len(run.contrasts)
    wanted = [(each, None) for each in select_declared(model)] + [
        (each, number)
        for number in range(n_contrasts)
        for each in select_declared(model, of_contrast=True)
    ]
    made = (_make_map(each, run, number) for each, number in wanted if each.is_wanted(run, number))
    return [item for item in made if item.volumes]


def _make_map(declared: Declaration, run: Run, contrast: int | None) -> Map:
    """Return a map of a run, or of one of its contrasts."""
    volumes = declared.volumes.list(run, contrast)
    labels = tuple(volume.label for volume in volumes if volume.label is not None)
    tested = [volume.contrast for volume in volumes if volume.contrast is not None]
    info = MapInfo(
        _name_file(declared, run, contrast),
        declared.describe(run.spec.model),
        _choose_intent(declared, run, contrast),
        volumes=labels or None,
        details=_describe_contrasts(declared, run, contrast, tested) | declared.details(run),
    )
    if info.intent in ("t test", "f test") and tested:
        info = info._replace(intent_parameters=_find_parameters(run, tested))
    if contrast is not None:
        info = info._replace(description=_describe_one(info.description, run, contrast))
    return Map(
        info,
        [partial(_read, declared, run, volume) for volume in volumes],
        declared.dtype or run.spec.map_dtype,
        declared.everywhere,
        frozenset(i for i, volume in enumerate(volumes) if volume.is_covariance),
    )


def _read(declared: Declaration, run: Run, volume: Volume, block: Block) -> NDArray[Any]:
    """Return a volume at a block, 0 where its contrast is not estimable."""
    values = declared.source(block, volume, run)
    if volume.contrast is None:
        return values
    return np.where(block.is_estimable(volume.contrast), values, values.dtype.type(0))


def _name_file(declared: Declaration, run: Run, contrast: int | None) -> str:
    if contrast is None:
        return declared.name_file(run.spec.model)
    return name_contrast_map(declared.name, run.labels[contrast], run.contrasts[contrast].is_f)


def _choose_intent(declared: Declaration, run: Run, contrast: int | None) -> str:
    if isinstance(declared.intent, str):
        return declared.intent
    return declared.intent[contrast is not None and run.contrasts[contrast].is_f]


def _find_parameters(run: Run, contrasts: Sequence[int]) -> tuple[float, ...]:
    """Return the parameters of the intent of T or F maps.

    A header has room for one number: the smallest of the contrasts' median degrees of freedom.
    """
    median = float(min(run.dof[i].median for i in contrasts))
    first = run.contrasts[contrasts[0]]
    return (float(len(first.matrix)), median) if first.is_f else (median,)


def _describe_one(words: str, run: Run, number: int) -> str:
    """Return what is said of a map of one contrast."""
    contrast = run.contrasts[number]
    text = words.format(
        test="F" if contrast.is_f else "T",
        df=",".join(f"{n:g}" for n in _find_parameters(run, [number])),
        tail="two-sided" if run.tests.two_sided and not contrast.is_f else "upper tail",
    )
    return f"{text}: {contrast.name}"


def _describe_contrasts(
    declared: Declaration, run: Run, contrast: int | None, tested: Sequence[int]
) -> dict[str, Any]:
    """Return what the sidecar of a map says of its contrasts."""
    if contrast is None:
        several = [
            describe_contrast(run.contrasts[i]) | {"DegreesOfFreedom": run.dof[i].describe()}
            for i in tested
        ]
        return {"Contrasts": several} if several else {}
    one: dict[str, Any] = {"Contrast": describe_contrast(run.contrasts[contrast])}
    is_mask = declared.intent == "label"
    return one | ({} if is_mask else {"DegreesOfFreedom": run.dof[contrast].describe()})


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    """Return what the sidecars of a contrast say of it."""
    weights = contrast.matrix.tolist()
    return {
        "Name": contrast.name,
        "Test": "F" if contrast.is_f else "T",
        "Weights": weights if contrast.is_f else weights[0],
    }


def name_contrast_map(kind: str, label: str, is_f: bool) -> str:
    """Return the BIDS-like name of a map of one contrast, such as ``z`` or ``estimable``."""
    [declared] = [each for each in DECLARED if each.is_of_contrast and each.name == kind]
    stat = {"stat": "F" if is_f else "t"}.get(kind, kind)
    return declared.file.format(label=label, name=stat)


def is_map_name(name: str, model: str) -> bool:
    """Return whether a file, relative to the output folder, could be a map of the model."""
    folder, _, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    if not is_map_ending(dot + ending):
        return False
    if folder == "contrasts":
        ends = {each.file.rpartition("}")[2] for each in DECLARED if each.is_of_contrast}
        return stem.startswith("contrast-") and stem.endswith(tuple(ends))
    return folder == "" and stem in {each.name_file(model) for each in select_declared(model)}


def is_result_name(name: str, model: str) -> bool:
    """Return whether a file, relative to the output folder, could be one that a run publishes."""
    return is_map_name(name, model) or is_model_file(name) or name == EXCLUDED
