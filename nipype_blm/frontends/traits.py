"""The inputs of Nipype's interfaces: the traits' names of fields."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from nipype_blm.errors import shorten
from nipype_blm.frontends import blm
from nipype_blm.frontends.faults import find_nearest
from nipype_blm.frontends.fields import Checked, check_fields, choose_fields
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.requests import make_request
from nipype_blm.frontends.words import TraitWords
from nipype_blm.model.request import Request
from nipype_blm.units import GIB

# Traits that are called as their fields are.
_SAME = (
    *("contrasts", "f_contrasts", "row_names", "match_rows", "min_percent", "min_n"),
    "zero_is_missing",
    *("deficient", "two_sided", "minlog", "images_per_batch", "voxels_per_block", "max_blocks"),
    *("minutes_per_job", "compress", "overwrite", "allow_empty", "out_dir"),
    *("formula", "table", "columns", "on_missing", "on_missing_image"),
    *("reml", "method", "tol", "maxnit", "n_starts", "safe_mode"),
)
# Traits have them only if somebody gave them.
_GIVEN = (
    *("images", "X", "factors", "row_names", "data_masks"),
    *("formula", "table", "pattern", "columns", "on_missing", "on_missing_image"),
)
# The field of each trait.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "in_files": "images",
        "images": "pattern",
        "design_file": "X",
        "mask_file": "analysis_mask",
        "data_mask_files": "data_masks",
        "data_mask_thresh": "threshold",
        "post_mask_file": "post_mask",
        "output_cov": "with_cov",
        "max_mem_gb": "max_bytes",
        "n_procs": "n_threads",
        "random_factors": "factors",
        "resms": "with_resms",
    }
    | {name: name for name in _SAME}
)


WORDS = TraitWords(
    {field: trait for trait, field in NAMES.items()}
    | {"contrasts.stat_type": blm.WORDS.name("contrasts.stat_type")}
)


def read(traits: Mapping[str, Any], model: str, **fields: Any) -> Request:
    """Read all files but images that the inputs of an interface name; see `check`.

    What is wrong is in the `faults` of the request.
    """
    checked = check(traits, model, **fields)
    record = blm.to_yaml(checked.fields)
    return make_request(checked.fields, Origin(model, WORDS, checked.problems, record=record))


def check(traits: Mapping[str, Any], model: str, **fields: Any) -> Checked:
    """Check the inputs of an interface that have a value.

    Parameters
    ----------
    traits : mapping
        By their names; those that are no fields are left out.
    model : str
        ``blm`` or ``blmm``.
    **fields
        Further fields, by the names of `nipype_blm.frontends.fields`.
    """
    data = {
        NAMES[trait]: _unpack(trait, value) for trait, value in traits.items() if trait in NAMES
    }
    # Others have a default, and may stand beside fields that they do not go with.
    known = {*choose_fields(model, data).model_fields, *_GIVEN}
    known_data = {name: value for name, value in data.items() if name in known}
    return check_fields(known_data | fields, model, WORDS)


def _unpack(trait: str, value: Any) -> Any:
    """Return a value as a field has it: one file by itself, and memory in bytes."""
    if isinstance(value, list) and trait.endswith("_files"):
        return value[0] if len(value) == 1 else value
    if trait != "max_mem_gb":
        return value
    n_bytes = value * GIB
    return round(n_bytes) if 1 <= n_bytes < float("inf") else value


def explain_name(name: str, known: Collection[str]) -> str:
    """Return that a name is not known, and which known one is the nearest.

    Fields of a configuration file are known by their traits.
    """
    traits = {field: trait for trait, field in NAMES.items()}
    names = {**blm.NAMES, **blm.MISSINGNESS}
    places = {
        each.lower(): traits[field] for each, field in names.items() if traits.get(field) in known
    }
    places |= {each.lower(): each for each in known}
    return f"{shorten(name)} is no known input; the nearest one is {find_nearest(name, places)}."
