"""The values of all images at a few voxels of a result, saved beside it: those at the peaks."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.described import format_described
from nipype_blm.io.files import write_if_changed
from nipype_blm.results.findings import Findings
from nipype_blm.results.results import Results

FOLDER = "report"  # beside the maps
N_PEAKS = 3  # of each contrast
MOST_VOXELS = 30  # of all contrasts
_NAME = "values"
_WORDS = (
    "The values of the images at the highest voxels of each contrast, a row for each image in the "
    "order of model/images.tsv, n/a where missing, printed with all their digits."
)


@dataclass(frozen=True, eq=False)
class Sampled:
    """The values of all images at some voxels of a result."""

    features: NDArray[np.intp]  # (n_voxels,), among the voxels of the result, ascending
    coordinates: FloatArray  # (n_voxels, 3), mm
    values: FloatArray  # (n_obs, n_voxels), NaN where missing

    def has(self, features: Iterable[int]) -> bool:
        """Return whether all of these voxels are there."""
        return set(map(int, features)) <= set(self.features.tolist())


def choose_peaks(findings: Findings) -> list[int]:
    """Return the voxels of a contrast whose data are shown.

    The highest peaks of what survives, or the voxel nearest to that; none where nothing is tested.
    """
    peaks = [place.feature for place in findings.peaks[:N_PEAKS]]
    if peaks or findings.nearest is None:
        return peaks
    return [findings.nearest]


def choose_voxels(findings: Mapping[str, Findings]) -> NDArray[np.intp]:
    """Return the voxels whose data are shown of all contrasts: first the highest peak of each."""
    peaks = [choose_peaks(each) for each in findings.values()]
    by_rank = [each[rank] for rank in range(N_PEAKS) for each in peaks if rank < len(each)]
    chosen = list(dict.fromkeys(by_rank))[:MOST_VOXELS]
    return np.array(sorted(chosen), np.intp)


def write_sampled(results: Results, sampled: Sampled) -> None:
    """Save values beside the maps that they are of.

    Raises
    ------
    OSError
        If the folder cannot be written.
    InputError
        If somebody else has files there.
    """
    folder = results.folder / FOLDER
    table, described = (folder / f"{_NAME}{end}" for end in (".tsv", ".json"))
    if table.exists() and not _is_ours(described):
        raise InputError(f"{table} is there, and no report has written it; move it elsewhere.")
    details = {
        "Model": results.stamp,
        "Values": _stamp(sampled.values),
        "Voxels": _describe_voxels(sampled),
    }
    columns, rows = _describe_columns(sampled), _list_rows(results, sampled)
    texts = format_described(_NAME, _WORDS, columns, rows, details)
    for path in (table, described):  # what describes the other is last, and tells if they fit
        write_if_changed(path, texts[path.name].encode("utf-8", "surrogateescape"))


def read_sampled(results: Results) -> Sampled:
    """Return the values that were saved beside maps.

    Raises
    ------
    InputError
        If there are none, or they are of another fit or damaged.
    """
    folder = results.folder / FOLDER
    try:
        described = json.loads((folder / f"{_NAME}.json").read_bytes())
        text = (folder / f"{_NAME}.tsv").read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(
            "The values of the images at the highest voxels are not there: "
            f"nipype-blm report {results.folder} reads them, as long as the images are there."
        ) from error
    except ValueError as error:
        raise _damaged(folder) from error
    model = described.get("Model") if isinstance(described, dict) else None
    if model is not None and model != results.stamp:
        raise InputError(
            f"The values in {folder} are of an earlier fit: nipype-blm report {results.folder} "
            "reads those of this one."
        )
    try:
        sampled = _parse(described, text, len(results.images))
        is_whole = _stamp(sampled.values) == described["Values"]
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise _damaged(folder) from error
    if model is None or not is_whole:
        raise _damaged(folder)
    return sampled


def _parse(described: Mapping[str, Any], text: str, n_obs: int) -> Sampled:
    voxels = described["Voxels"].values()
    features = np.array([each["Place"] for each in voxels], np.intp)
    coordinates = np.array([each["Coordinates"] for each in voxels], float).reshape(-1, 3)
    _, *rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    cells = [[_read_cell(cell) for cell in row[2:]] for row in rows]
    return Sampled(features, coordinates, np.array(cells, float).reshape(n_obs, features.size))


def _describe_columns(sampled: Sampled) -> dict[str, str]:
    said = {
        "image": "Path of the image when the model was fitted.",
        "volume": "Number of the volume in the image, from 0.",
    }
    for name, each in _describe_voxels(sampled).items():
        place = ", ".join(f"{x:g}" for x in each["Coordinates"])
        said[name] = f"Values at {place} mm, in the units of the images."
    return said


def _describe_voxels(sampled: Sampled) -> dict[str, dict[str, Any]]:
    """Return where the voxel of each column is; its place is its number in the result, from 0."""
    pairs = zip(sampled.features.tolist(), sampled.coordinates.tolist(), strict=True)
    return {f"voxel_{place}": {"Place": place, "Coordinates": where} for place, where in pairs}


def _list_rows(results: Results, sampled: Sampled) -> Iterable[list[Any]]:
    for image, values in zip(results.images, sampled.values.tolist(), strict=True):
        cells = [None if x != x else repr(x) for x in values]
        yield [image.image, image.volume, *cells]


def _read_cell(cell: str) -> float:
    return np.nan if cell == "n/a" else float(cell)


def _stamp(values: FloatArray) -> str:
    """Return the fingerprint of values, whatever stands for missing ones."""
    return fingerprint(np.where(np.isnan(values), np.nan, values).tobytes())


def _is_ours(described: Path) -> bool:
    try:
        found = json.loads(described.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("Description") == _WORDS


def _damaged(folder: Path) -> InputError:
    return InputError(
        f"The values in {folder} are damaged or edited: remove {folder / _NAME}.tsv and .json, and "
        "have them read again by nipype-blm report."
    )
