"""The options of commands that take a formula, and the field that each one gives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nipype_blm.model.study import ON_MISSING


class Option(NamedTuple):
    """One option of the command line."""

    flag: str
    field: str  # of `nipype_blm.frontends.fields`
    help: str
    value: Any = None  # that the flag stands for; None: one follows it
    metavar: str = ""
    many: bool = False  # whether it may be given again
    several: bool = False  # whether it may be followed by several values
    may_be_alone: bool = False  # whether none needs to follow
    choices: Sequence[str] | None = None


MODEL = (
    Option("--formula", "formula", 'model, such as "~ age + (1 | subject)"', metavar="FORMULA"),
    Option(
        "--test",
        "contrasts",
        "contrast of the group model, such as age, or sex[M] - sex[F]; may be given again; "
        "default: the effect of each term",
        metavar="EXPRESSION",
        many=True,
    ),
    Option(
        "--categorical",
        "columns",
        "columns of numbers that are labels",
        metavar="COL",
        several=True,
    ),
    Option(
        "--numeric", "columns", "columns of labels that are numbers", metavar="COL", several=True
    ),
    Option(
        "--on-missing",
        "on_missing",
        "rows with a missing covariate",
        choices=ON_MISSING,
    ),
    Option(
        "--on-missing-image",
        "on_missing_image",
        "rows without an image",
        choices=ON_MISSING,
    ),
)
TABLE = (
    Option(
        "--images",
        "pattern",
        'where the image of a row is: "maps/{participant_id}.nii.gz", or a column; default: image',
        metavar="PATTERN",
    ),
    Option(
        "--data-masks",
        "data_masks",
        "where the mask of the data of a row is, likewise",
        metavar="PATTERN",
    ),
)
BIDS = (
    Option(
        "--derivatives",
        "derivatives",
        "derivatives with the images, by name or folder; may be given again; default: all",
        metavar="DIR",
        many=True,
    ),
    Option(
        "--participant-label",
        "participants",
        "participants, with or without sub-; default: all",
        metavar="LABEL",
        several=True,
    ),
    Option(
        "--no-own-masks", "own_masks", "do not mask images with their own brain masks", value=False
    ),
)
ENTITIES = ("space", "desc", "contrast", "stat")  # with an option of their own
SETTINGS = (
    Option(
        "--mask",
        "analysis_mask",
        "mask of the analysis; auto (default): where there are data",
        metavar="FILE",
    ),
    Option("--min-n", "min_n", "least images at a voxel", metavar="N"),
    Option("--min-percent", "min_percent", "least share of the images, as 80%%", metavar="SHARE"),
    Option("--zeros-are-data", "zero_is_missing", "values of exactly 0 are data", value=False),
    Option("--two-sided", "two_sided", "two-sided p of T", value=True),
    Option("--ml", "reml", "maximum likelihood, not restricted", value=False),
    Option(
        "--deficient",
        "deficient",
        "if columns of X depend on each other",
        choices=("refuse", "estimable"),
    ),
    Option(
        "--inference",
        "inference",
        "then correct p as `nipype-blm infer` does; its options as NAME=VALUE, such as n=5000 "
        "summaries=voxel,tfce",
        metavar="NAME=VALUE",
        several=True,
        may_be_alone=True,
    ),
    Option(
        "--diagnostics",
        "diagnostics",
        "then say what the model leaves as `nipype-blm diagnose` does; with what it saves, such as "
        "save=residuals,blups",
        metavar="NAME=VALUE",
        several=True,
        may_be_alone=True,
    ),
    Option("--compress", "compress", "write .nii.gz", value=True),
    Option("--overwrite", "overwrite", "replace the maps of another model", value=True),
    Option("--work-dir", "work_dir", "folder for intermediate files", metavar="DIR"),
    Option(
        "--keep",
        "keep",
        "intermediate files that stay",
        choices=("contrasts", "all", "tiles", "nothing"),
    ),
    Option("--n-procs", "n_threads", "threads to use; default: all cores", metavar="N"),
    Option("--max-mem-gb", "max_bytes", "memory to use, in GiB; default 4", metavar="GIB"),
)
ALL = (*MODEL, *TABLE, *BIDS, *SETTINGS)
