"""What is asked of a run, in arrays, names and paths: the one thing that every front end makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm.core.linalg import FloatArray
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.errors import Words
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.inference import InferenceOptions
from nipype_blm.model.study import Study

DEFICIENT = ("refuse", "estimable")
KEEP = ("contrasts", "all", "tiles", "nothing")
MATCH_ROWS = ("check", "by_name", "by_order")
DEFAULT_MAX_BYTES = 2**32
DEFAULT_MINLOG = -323.3062153431158
DEFAULT_WORKERS = 10
# In the folder of the workflow.
PLAN_FOLDER = "plan_files"
PRODUCTS_FOLDER = "products"
CHECKPOINTS = "checkpoints"  # in the latter: of batches that are being read
TILES_FOLDER = "tiles"


class ListedPath(NamedTuple):
    """A path and where it was given."""

    path: Path
    where: str  # such as "line 3 of images.txt"


class Table(NamedTuple):
    """Numbers, with names of their columns and, if there are any, of their rows."""

    values: FloatArray  # (n_rows, n_columns)
    names: Sequence[str]  # of the columns
    has_header: bool = True  # False: nobody gave these names
    row_names: Sequence[str] | None = None  # (n_rows,)
    row_header: str = ""  # of the column of row names
    first_line: int = 1  # of the file, that has a row
    source: str = ""  # what messages call it, such as "X /study/design.csv"

    def sort(self, order: NDArray[np.intp]) -> "Table":
        """Return the table with its rows in another order."""
        names = None if self.row_names is None else [self.row_names[i] for i in order]
        return self._replace(values=self.values[order], row_names=names)


@dataclass(frozen=True, eq=False)
class Factor:
    """A random factor: the level of each image, and the random effects of a level."""

    name: str
    labels: Sequence[str]  # (n_obs,); text, so that 5 and 05 differ
    design: Table  # (n_obs, n_effects)
    correlated: bool = True  # the effects of a level
    nested_in: str | None = None  # the factor within whose levels labels are unique
    source: str = ""  # what messages call the labels, such as "Z f1 factor /study/sub.txt"


@dataclass(frozen=True, eq=False)
class Request:
    """A model, its images, and how it is run; messages name its fields.

    Rows of `X` and of `factors` are in the order of `images`, unless `match_rows` says that
    their names sort them.  What a front end could not read is None, and said in `faults`: such
    a request can be checked, and not run.
    """

    X: Table | None
    images: Sequence[ListedPath] | None  # one 4D image stands for its volumes
    contrasts: Sequence[Contrast]
    out_dir: Path

    factors: Sequence[Factor | None] = ()
    estimation: MixedOptions | None = None  # None: least squares
    deficient: str = "refuse"  # one of DEFICIENT: columns of X that depend on each other
    match_rows: str = "check"  # one of MATCH_ROWS: names of rows and of images
    may_ask: bool = False  # whether columns may turn out to be names of rows

    # Which values and which voxels count.
    data_masks: Sequence[ListedPath | None] | None = None  # of each image; None: it has none
    threshold: float | None = None  # values below it are missing
    zero_is_missing: bool = True
    analysis_mask: Path | None = None
    post_mask: Path | None = None  # voxels outside it leave the result
    min_n: int | None = None  # images that a voxel needs
    min_percent: Fraction | None = None  # ... as a share of all, from 0 to 1

    # What is written.
    with_cov: bool = True  # covariances of beta
    with_resms: bool = True
    two_sided: bool = False  # p of T contrasts
    minlog: float = DEFAULT_MINLOG  # in the place of infinite log p
    compress: bool = False
    inference: InferenceOptions | None = None  # of the maps, when they are there
    # What diagnostics save of each image or level, likewise; None: none are made.
    diagnostics: tuple[str, ...] | None = None
    report: bool | None = None  # report.html in the end; None: as the command usually does

    # Where.
    work_dir: Path | None = None
    overwrite: bool = False  # maps of another model
    allow_empty: bool = False  # accept a result without any voxel
    keep: str = "contrasts"  # one of KEEP: intermediate files that stay
    quiet: bool = False

    # With what.
    max_bytes: int = DEFAULT_MAX_BYTES  # memory of one process
    cluster: str = "local"  # or a batch system, whose jobs are workers
    n_threads: int | None = None  # of this machine; None: all
    n_workers: int | None = None  # nodes that run at the same time on a cluster
    images_per_batch: int | None = None
    voxels_per_block: int | None = None
    max_blocks: int | None = None
    minutes_per_job: float | None = None

    # What the front end hands on.
    study: Study | None = None  # the table that a formula made X and the factors of
    words: Words = field(default_factory=Words)  # its own, in which users are told of faults
    record: Mapping[str, Any] = field(default_factory=dict)  # content of inputs.yml; {}: no file
    files: Sequence[Path | None] = ()  # that it was read from; None: could not be
    notices: Sequence[str] = ()  # what is no fault but may not be meant
    faults: Sequence[str] = ()  # what could not be read, a `Problem` each

    @property
    def is_mixed(self) -> bool:
        """Whether this is a mixed model."""
        return self.estimation is not None

    @property
    def model(self) -> str:
        """``blm`` or ``blmm``, with which the names of maps begin."""
        return "blmm" if self.is_mixed else "blm"

    @property
    def with_tiles(self) -> bool:
        """Whether the values of all images are written by voxel, too."""
        return self.keep == "tiles" or self.reads_again

    @property
    def reads_again(self) -> bool:
        """Whether values are read once more when the maps are there."""
        return self.inference is not None or self.diagnostics is not None

    @property
    def parallel_nodes(self) -> int:
        """Nodes that run at the same time; on this machine there are threads instead."""
        return 1 if self.cluster == "local" else self.n_workers or DEFAULT_WORKERS

    @property
    def work_folder(self) -> Path:
        """Where intermediate files go."""
        return self.work_dir or self.out_dir / "work"

    @property
    def workflow_folder(self) -> Path:
        """Folder of the workflow's nodes; what they leave there may be deleted or replaced."""
        return self.work_folder / f"{self.model}_wf"

    @property
    def plan_folder(self) -> Path:
        """Where the plan goes; runs with the same one follow each other."""
        return self.workflow_folder / PLAN_FOLDER

    def minimum_n(self, n_images: int) -> int:
        """Return the least number of images a voxel needs, out of `n_images`."""
        share = -(-(self.min_percent or Fraction(0)) * n_images // 1)
        return max(int(share), self.min_n or 0)
