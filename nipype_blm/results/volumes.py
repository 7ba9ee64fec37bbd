"""Which volumes a map has: one, or one for each column of X, entry of D, contrast or row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from nipype_blm.core.factors import RandomFactor, find_intercepts
from nipype_blm.core.linalg import packed_position
from nipype_blm.data.spec import ContrastSpec, ModelSpec
from nipype_blm.model.contrasts import Contrast, file_labels


class DofRange(NamedTuple):
    """Error degrees of freedom of a contrast over the voxels of the mask."""

    minimum: float
    median: float  # which stands in the header
    maximum: float

    def describe(self) -> dict[str, Any]:
        """Return what sidecars say of it."""
        numbers = {name.capitalize(): value for name, value in self._asdict().items()}
        return numbers | {
            "Description": "Of the voxels in the mask.  The header has the median, as parameter "
            "of its intent: it is not the number of each voxel.  To threshold, take z or p."
        }


@dataclass(frozen=True)
class Run:
    """What the maps of a run depend on, besides the numbers in its blocks."""

    spec: ModelSpec
    tests: ContrastSpec
    dof: Sequence[DofRange]  # of each contrast
    has_gaps: Sequence[bool]  # whether each contrast is not estimable at some fitted voxel
    notices: Sequence[str] = ()  # what the user should know

    @property
    def contrasts(self) -> Sequence[Contrast]:
        """The contrasts, in their order."""
        return self.tests.contrasts

    @cached_property
    def labels(self) -> Sequence[str]:
        """The label of each contrast in names of files."""
        return file_labels(self.contrasts)

    @cached_property
    def intercepts(self) -> dict[str, tuple[int, float]]:
        """Of each factor with an intercept, its row of D and its value in Z."""
        return find_intercepts(self.spec.factors)


class Volume(NamedTuple):
    """One volume of a map: its label, and which numbers of a block it holds."""

    key: Any = None
    label: str | None = None  # None: the map is 3D
    contrast: Any = None  # number of one; 0 where that is not estimable
    is_covariance: bool = False  # nothing but a rounding error where it is small


class Volumes(NamedTuple):
    """Which volumes a map has."""

    words: str  # how many, in the tables of the docs
    list: Callable[[Run, Any], Sequence[Volume]]  # of a run, or of one of its contrasts


def _list_one(run: Run, contrast: Any) -> Sequence[Volume]:
    return [Volume(contrast=contrast)]


def _list_columns(run: Run, contrast: Any) -> Sequence[Volume]:
    return [Volume(i, name) for i, name in enumerate(run.spec.names)]


def _list_pairs(run: Run, contrast: Any) -> Sequence[Volume]:
    names = list(enumerate(run.spec.names))
    return [
        Volume(packed_position(i, j), f"{a} x {b}", is_covariance=i != j)
        for i, a in names
        for j, b in names
    ]


def _list_entries(run: Run, contrast: Any) -> Sequence[Volume]:
    factors = zip(run.spec.factors, run.spec.effect_names, strict=True)
    labels = [label for factor, effects in factors for label in _label_vech(factor, effects)]
    return [Volume(i, label) for i, label in enumerate(labels)]


def _label_vech(factor: RandomFactor, effects: Sequence[str]) -> list[str]:
    """Return a label for each entry of vech(D), column by column."""
    return [
        f"{factor.name}: {one}" if one is other else f"{factor.name}: {one} x {other}"
        for i, one in enumerate(effects)
        for other in effects[i:]
    ]


def _list_intercepts(run: Run, contrast: Any) -> Sequence[Volume]:
    return [Volume(i, name) for i, name in enumerate(run.intercepts)]


def _list_contrasts(run: Run, is_f: bool) -> Sequence[Volume]:
    named = enumerate(run.contrasts)
    return [Volume(None, contrast.name, i) for i, contrast in named if contrast.is_f == is_f]


def _list_rows(run: Run, contrast: Any) -> Sequence[Volume]:
    """Return a volume for each row of an F contrast; that of a T contrast has no label."""
    tested = run.contrasts[contrast]
    rows = [Volume(i, f"row {i + 1}", contrast) for i in range(len(tested.matrix))]
    return rows if tested.is_f else [rows[0]._replace(label=None)]


def _list_row_pairs(run: Run, contrast: Any) -> Sequence[Volume]:
    tested = run.contrasts[contrast]
    q = len(tested.matrix)
    pairs = [
        Volume(i * q + j, f"rows {i + 1}, {j + 1}", contrast, i != j)
        for i in range(q)
        for j in range(q)
    ]
    return pairs if tested.is_f else [pairs[0]._replace(label=None)]


ONE = Volumes("1, 3D", _list_one)
COLUMNS = Volumes("p", _list_columns)
PAIRS = Volumes("p²", _list_pairs)
ENTRIES = Volumes("d", _list_entries)
INTERCEPTS = Volumes("factors with an intercept", _list_intercepts)
T_CONTRASTS = Volumes("T contrasts", lambda run, _: _list_contrasts(run, is_f=False))
F_CONTRASTS = Volumes("F contrasts", lambda run, _: _list_contrasts(run, is_f=True))
ROWS = Volumes("1, 3D; F: q", _list_rows)
ROW_PAIRS = Volumes("1, 3D; F: q²", _list_row_pairs)
