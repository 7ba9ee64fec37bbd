"""What requests take of checked fields, however the model is given."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.kinds import is_image_path
from nipype_blm.errors import InputError, Problem, Words
from nipype_blm.frontends.fields import (
    CommonFields,
    ContrastFields,
    MixedOptionFields,
)
from nipype_blm.io.tables import explain_path, read_path_list
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.request import ListedPath

# Fields that the request takes as they are.
_SAME = (
    *("out_dir", "deficient", "threshold", "zero_is_missing", "analysis_mask"),
    *("post_mask", "min_n", "min_percent", "with_cov", "two_sided", "minlog", "compress"),
    *("work_dir", "overwrite", "allow_empty", "keep", "quiet", "max_bytes", "cluster"),
    *("n_threads", "n_workers", "images_per_batch", "voxels_per_block", "max_blocks"),
    *("minutes_per_job", "report"),
)


class Origin(NamedTuple):
    """Where fields come from, and what was found out of them so far."""

    model: str  # blm or blmm
    words: Words  # in which files are told of: those of the user who named them
    problems: Iterable[str] = ()  # what is wrong with the fields; files add to it
    notices: Sequence[str] = ()  # what is no fault but may not be meant
    record: Mapping[str, Any] = MappingProxyType({})  # the fields, as inputs.yml has them
    source: Path | None = None  # the file that they were read from


def request_options(fields: CommonFields, origin: Origin) -> dict[str, Any]:
    """Return what a request takes of fields as it is, however the model is given."""
    options: dict[str, Any] = {name: getattr(fields, name) for name in _SAME}
    if isinstance(fields, MixedOptionFields):
        options["estimation"] = MixedOptions(
            reml=fields.reml,
            method=fields.method,
            tol=fields.tol,
            maxnit=fields.maxnit,
            safe_mode=fields.safe_mode,
            n_starts=fields.n_starts,
        )
        options["with_resms"] = fields.with_resms
    if fields.inference is not None:
        from nipype_blm.frontends.inference import make_inference_options

        options["inference"] = make_inference_options(fields.inference, str)
    if fields.diagnostics is not None:
        options["diagnostics"] = tuple(fields.diagnostics.get("save", ()))
    return options | {"words": origin.words, "record": origin.record}


def list_files(given: Path | Sequence[Path], field: str, words: Words) -> list[ListedPath]:
    """Return the files that a field names: a list file, one image, or several."""
    what = words.name(field)
    if not isinstance(given, Path):
        return [ListedPath(path, f"entry {i} of {what}") for i, path in enumerate(given, 1)]
    if is_image_path(given):
        fault = explain_path(given, given.name)
        if fault is not None:
            raise InputError(Problem(field, f"{{{field}}}: {{fault}}.", fault=fault))
        return [ListedPath(given, what)]
    return read_path_list(given, what)


def make_contrast(fields: ContrastFields) -> Contrast:
    """Return a contrast; one without weights holds the place of one that is not valid."""
    name = fields.name or fields.expression or ""
    if not fields.vector:
        return Contrast(name, np.empty((0, 0)), is_f=False)
    return Contrast(name, np.array(fields.vector))
