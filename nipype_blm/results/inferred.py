"""What inference leaves in a folder of results: which maps there are, and their one reader."""

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.kinds import find_map, load_image, load_map
from nipype_blm.errors import InputError
from nipype_blm.results.results import ContrastResults, Results

FOLDER = "inference"  # in that of the results
FILE = "inference.json"


class InferredKind(NamedTuple):
    """One kind of map of a contrast."""

    file: str  # of the name, behind the contrast
    words: str  # one sentence, or its beginning
    intent: str  # as nibabel calls it


KINDS = {
    "z": InferredKind("desc-{name}_stat-z_statmap", "z that is resampled", "z score"),
    "tfce": InferredKind("stat-tfce_statmap", "Threshold-free cluster enhancement of z", "none"),
    # Of each summary, by counting or by the tail.
    "p": InferredKind("desc-{name}FWE_stat-p_statmap", "Family-wise corrected p", "p value"),
    "log10p": InferredKind(
        "desc-{name}FWE_stat-log10p_statmap",
        *("-log10 of the family-wise corrected p", "log10 p value"),
    ),
    "q": InferredKind("desc-{name}_stat-q_statmap", "False discovery rate q", "none"),
}
_OTHER_FILES = ("clusters.tsv", "clusters.json", "nulls.npy", "nulls.json")
_LABEL = "[A-Za-z0-9]+"
_OURS = re.compile(
    rf"contrast-{_LABEL}_(({'|'.join(kind.file for kind in KINDS.values())})\.[a-z.]+|"
    rf"{'|'.join(map(re.escape, _OTHER_FILES))})|{re.escape(FILE)}".replace("{name}", _LABEL)
)


def name_inferred(kind: str, label: str, name: str = "") -> str:
    """Return the name of a map of a contrast, without its ending; labels have no underscore."""
    return f"contrast-{label}_{KINDS[kind].file.format(name=name.replace('_', ''))}"


def name_clusters(label: str) -> str:
    """Return the name of the table of the clusters of a contrast, without its ending."""
    return f"contrast-{label}_clusters"


def name_nulls(label: str) -> str:
    """Return the name of the null distributions of a contrast, without its ending."""
    return f"contrast-{label}_nulls"


def is_inferred_name(name: str) -> bool:
    """Return whether a name, below `FOLDER`, is one that an inference could have written."""
    return _OURS.fullmatch(name) is not None


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return what an inference says of itself; None without one."""
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "Contrasts" in found else None


def is_of_earlier_fit(results: Results) -> bool:
    """Return whether a folder of results has the inference of another fit than its maps."""
    found = read_description(results.folder / FOLDER)
    return found is not None and found.get("Model") != results.stamp


def find_done(folder: Path, stamp: str) -> int:
    """Return how many resamplings with this fingerprint a folder has the peaks of."""
    found = read_description(folder)
    if found is None or found.get("NullsFingerprint") != stamp:
        return 0
    try:
        nulls = [load_nulls(folder, each["Label"]) for each in found["Contrasts"]]
        n_summaries = len(found["Summaries"])
    except (InputError, KeyError, TypeError):
        return 0
    if any(len(each) != n_summaries + 1 or np.isnan(each).any() for each in nulls):
        return 0
    return min((each.shape[1] for each in nulls), default=0)


def load_nulls(folder: Path, label: str) -> FloatArray:
    """Return the peaks of all resamplings, (n_summaries, n); the first is that of the data.

    Behind the summaries there is a row with the voxels at which a resampling said nothing.
    """
    path = folder / f"{name_nulls(label)}.npy"
    try:
        found: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read; run the inference again.") from error
    if found.ndim != 2 or found.dtype != np.float64:
        raise InputError(f"{path} is not as the inference wrote it; run it again.")
    return found


class Inferred:
    """The inference of a folder of results: corrected maps, clusters, null distributions.

    Parameters
    ----------
    results : Results or path
        Of the run whose contrasts were tested.

    Raises
    ------
    InputError
        If there is none, or it is that of another fit.
    """

    def __init__(self, results: Results | Path | str) -> None:
        self.results = results if isinstance(results, Results) else Results(results)
        self.folder = self.results.folder / FOLDER
        found = read_description(self.folder)
        again = f"`nipype-blm infer {self.results.folder}` makes it"
        if found is None:
            raise InputError(f"{self.results.folder} has no inference; {again}.")
        if found["Model"] != self.results.stamp:
            raise InputError(
                f"{self.folder} is the inference of an earlier fit than that of the maps beside "
                f"it; {again} again."
            )
        self.description = found

    @property
    def n(self) -> int:
        """Number of resamplings, the data being the first."""
        return int(self.description["Resamplings"])

    @property
    def summaries(self) -> list[str]:
        """What was corrected."""
        return list(self.description["Summaries"])

    @cached_property
    def contrasts(self) -> dict[str, "InferredContrast"]:
        """The contrasts that were tested, by name."""
        of = self.results.contrasts
        return {
            each["Name"]: InferredContrast(self, of[each["Name"]], each)
            for each in self.description["Contrasts"]
        }


def find_threshold(peaks: FloatArray, alpha: float) -> float:
    """Return the least value whose counted p is at most `alpha`; NaN if none is.

    Parameters
    ----------
    peaks : array of shape (n_resamplings,)
        Largest values of one summary; that of the data, the first, counts among them.
    alpha : float
    """
    peaks = np.sort(peaks)[::-1]
    allowed = int(alpha * peaks.size)  # so many may reach the threshold
    # Not those that are equal to one too many, as sizes of clusters often are.
    fits = peaks[peaks > peaks[allowed]] if allowed < peaks.size else peaks
    return float(fits[-1]) if fits.size else float("nan")


@dataclass(frozen=True, eq=False)
class InferredContrast:
    """One contrast that was tested."""

    inferred: Inferred
    contrast: ContrastResults
    description: dict[str, Any]  # what is known of it as a whole

    def path(self, kind: str, name: str = "") -> Path:
        """Return the file of a map.

        Parameters
        ----------
        kind : str
            One of `KINDS`.
        name : str, optional
            Of p and log10p the summary, as voxel, or voxeljoint; or bonferroni, or field.
        """
        known = self.inferred.description
        usual = {"z": known["Resampling"], "q": known["Fdr"]}
        wanted = name_inferred(kind, self.contrast.label, name or usual.get(kind, ""))
        found = find_map(self.inferred.folder, wanted)
        if found is None:
            raise InputError(f"{self.inferred.folder} has no {wanted}.")
        return found

    def image(self, kind: str, name: str = "") -> Any:
        """Return a map as an image of nibabel."""
        return load_image(self.path(kind, name))

    def array(self, kind: str, name: str = "") -> NDArray[Any]:
        """Return a map as an array."""
        return np.asarray(load_map(self.path(kind, name)))

    @property
    def nulls_file(self) -> Path:
        """The file of `nulls`."""
        return self.inferred.folder / f"{name_nulls(self.contrast.label)}.npy"

    @property
    def clusters_file(self) -> Path:
        """The file of `clusters`."""
        return self.inferred.folder / f"{name_clusters(self.contrast.label)}.tsv"

    @property
    def nulls(self) -> dict[str, FloatArray]:
        """The peaks of all resamplings, by summary; the first is that of the data."""
        *found, _ = load_nulls(self.inferred.folder, self.contrast.label)
        return dict(zip(self.inferred.summaries, found, strict=True))

    @property
    def clusters(self) -> list[dict[str, str]]:
        """The table of clusters and their peaks, by the names of its columns."""
        with self.clusters_file.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))
