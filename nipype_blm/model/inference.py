"""What is asked of corrected inference, in one vocabulary; how its work is cut into pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nipype_blm.errors import InputError, Problem

PANEL = 64  # resamplings that are multiplied at once: the bits of none depend on the others
PER_TASK = 4 * PANEL  # resamplings of one task, which it takes seconds to minutes to do
MOST_TASKS = 200
FEWEST_IMAGES, MOST_IMAGES = 64, 1024  # of a batch, if there are more than one
ROWS = 32  # images that are read together
FEWEST_GROUPS = 5
FEW_GROUPS = 12  # fewer are worth a notice
SIDES = ("two", "one")
CORRECTIONS = ("bh", "by")
EXCHANGES = ("within", "whole", "both")
# What an inference reads at a voxel, and holds, for each image: the value, its deviation and score.
_BYTES_PER_VALUE = 40
_BASE_BYTES = 2**28
_BLOCK_BYTES = 2**27


# What users are told of each option, wherever it is given.
DESCRIPTIONS = {
    "contrasts": "names of contrasts; default: all",
    "resampling": "flip_scores (default: signs of the scores of independent groups of images), or, "
    "of a linear model, permute (Freedman-Lane) or flip_data (signs of residuals)",
    "n": "resamplings, the data being the first; default 1000",
    "seed": "of the resamplings; default 0",
    "summaries": "what is corrected: voxel (the maximum), cluster (extent), mass, tfce; "
    "default: all",
    "cluster_z": "z above which voxels form clusters; default: that of a one-sided p of 0.001",
    "cluster_p": "one-sided p below which voxels form clusters; default 0.001",
    "tfce_e": "TFCE: exponent of extent; default 0.5; 1 on a skeleton of tracts, as randomise --T2",
    "tfce_h": "TFCE: exponent of height; default 2",
    "sides": "sides of T tests: two (default), or one, of positive effects",
    "joint": "correct across all these contrasts, too",
    "neighbours": "voxels that touch another one: 6, 18 or 26 (default)",
    "blocks": "images that are exchanged as one, or among themselves: a column of the table of the "
    "formula, or a file: one label for each image in the order given, such as a .grp of FSL, or "
    "two columns, names that are found in those of images and labels",
    "exchange": "with permute and blocks: images within blocks (default), whole blocks, or both",
    "tail": "p below 1 / n from a fitted tail of the null distribution (default)",
    "fdr": "false discovery rate: bh (Benjamini-Hochberg, default) or by (-Yekutieli)",
    "atlas": "image of labels, which name peaks",
    "atlas_names": "names of its labels: a table with the columns index and name, a list of "
    "FreeSurfer, ITK-SNAP or AAL, or XML of FSL or SPM",
    "distance_mm": "least distance between peaks of a cluster, in mm; default 8",
}


@dataclass(frozen=True)
class InferenceOptions:
    """How p-values are corrected for the number of voxels: see `DESCRIPTIONS`.

    What is None is chosen by the program, or not asked for.  Messages name these fields.
    """

    contrasts: tuple[str, ...] | None = None
    resampling: str = "flip_scores"  # one of core.resampling's
    n: int = 1000
    seed: int = 0
    summaries: tuple[str, ...] = ()  # of core.clusters; none: all
    cluster_z: float | None = None
    cluster_p: float = 0.001
    tfce_e: float = 0.5
    tfce_h: float = 2.0
    sides: str = "two"  # one of SIDES
    joint: bool = False
    neighbours: int | None = None  # None: as the space of the images has them
    blocks: str | None = None
    exchange: str = "within"  # one of EXCHANGES
    tail: bool = True
    fdr: str = "bh"  # one of CORRECTIONS
    atlas: Path | None = None
    atlas_names: Path | None = None
    distance_mm: float = 8.0

    def pack(self) -> dict[str, Any]:
        """Return what JSON can hold, without what was not given."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: str(value)
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def unpack(cls, values: Mapping[str, Any]) -> Self:
        """Return the options that were packed."""
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        given |= {name: Path(given[name]) for name in ("atlas", "atlas_names") if name in given}
        return cls(**given)

    @property
    def height(self) -> float:
        """The z that forms clusters."""
        from scipy.special import ndtri

        return float(-ndtri(self.cluster_p)) if self.cluster_z is None else self.cluster_z


def plan_ranges(n: int, n_done: int = 0) -> list[tuple[int, int]]:
    """Return the numbers of the resamplings of each task, first and behind the last.

    Parameters
    ----------
    n : int
        Resamplings asked for.
    n_done : int
        Those of an earlier run.
    """
    per_task = max(PER_TASK, -(-n // (MOST_TASKS * PANEL)) * PANEL)
    # Whole panels: one that was not complete is done again.
    first = n_done // PANEL * PANEL if n_done < n else n
    return [(start, min(start + per_task, n)) for start in range(first, n, per_task)]


def plan_batch(n_obs: int, n_nodes: int) -> int:
    """Return the images of a batch that one node reads."""
    batch = min(MOST_IMAGES, -(-n_obs // max(1, min(n_nodes, n_obs // FEWEST_IMAGES or 1))))
    return -(-batch // ROWS) * ROWS if batch < n_obs else batch


def predict_disk(
    n_obs: int,
    itemsize: int,
    n_voxels: int,
    n_incomplete: int,
    n_params: int,
    n_groups: int,
    n_rows: int,
) -> int:
    """Return the bytes of intermediate files: values of all images, and scores.

    Parameters
    ----------
    n_obs, itemsize, n_voxels : int
        Images, bytes of a value, voxels.
    n_incomplete : int
        Voxels that need more than one score of each group: some image is missing, or the model is
        mixed.
    n_params, n_groups : int
        Columns of X, and what is exchanged.
    n_rows : int
        Of all contrasts together.
    """
    scores = 4 * n_groups * (n_voxels + n_incomplete * (n_params - 1))
    return n_obs * n_voxels * itemsize + n_rows * scores


def plan_block(n_obs: int, n_params: int, n_voxels: int, max_bytes: int, n_nodes: int) -> int:
    """Return the voxels of a block, of which each needs its values and its scores in memory.

    Raises
    ------
    InputError
        If memory does not hold a few.
    """
    usable = max_bytes - min(_BASE_BYTES, max_bytes // 4)
    per_voxel = n_obs * (_BYTES_PER_VALUE + 4 * n_params)
    most = usable // per_voxel
    if most < PANEL:
        raise InputError(
            Problem(
                "max_bytes",
                "{max_bytes} is {given:memory}, too little for the values of {n_obs} images at a "
                "few voxels; the least that works is {least:budget}.",
                given=max_bytes,
                n_obs=n_obs,
                least=2 * PANEL * per_voxel + _BASE_BYTES,
            )
        )
    block = min(most, max(1024, _BLOCK_BYTES // per_voxel), -(-n_voxels // max(1, n_nodes)))
    return int(-(-n_voxels // -(-n_voxels // max(1, block))))


def check_groups(
    n_groups: int, sizes: Sequence[int], factors: Sequence[str], has_blocks: bool = False
) -> list[Problem]:
    """Return why groups of images cannot be flipped, if they are too few.

    Parameters
    ----------
    n_groups : int
        Independent sets of images.
    sizes : sequence of int
        Images of each.
    factors : sequence of str
        Names of the random factors.
    has_blocks : bool
        Whether blocks of images were given.
    """
    if n_groups >= FEWEST_GROUPS:
        return []
    reason = "the images"
    way_out = "With so few images, no test by resampling can be trusted."
    if has_blocks:
        reason = "images of one block, or that others link,"
        way_out = "Smaller blocks, or none, leave more of them, if images are as independent."
    elif factors:
        joined = " and ".join(factors)
        reason = f"images that share a level of {joined}, or are linked by others that do,"
        way_out = (
            "Where the factor with few levels is one of several (a site, a scanner), give it as a "
            "column of the table among the fixed effects instead; crossed factors leave no "
            "independent groups, and p of the maps, FDR and random-field p stay valid."
        )
    return [
        Problem(
            "resampling",
            "{reason} fall into {n} independent groups ({sizes} images), expected {least} or more, "
            "since groups are what {resampling} exchanges. {way_out}",
            reason=reason,
            n=n_groups,
            sizes=", ".join(map(str, sorted(sizes, reverse=True)[:6])),
            least=FEWEST_GROUPS,
            way_out=way_out,
        )
    ]
