"""What is asked of corrected inference, checked at once: of a configuration, options or traits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nipype_blm.core.clusters.summaries import SUMMARIES
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.errors import InputError, Problem, shorten
from nipype_blm.frontends.fields import describe_fault, find_nearest
from nipype_blm.frontends.traits import TraitWords
from nipype_blm.frontends.values import (
    Count,
    CountOrNone,
    FilePath,
    Text,
    TextList,
    above_zero,
    one_of,
)
from nipype_blm.model.inference import (
    CORRECTIONS,
    EXCHANGES,
    SIDES,
    InferenceOptions,
)

_Resampling = Annotated[str, one_of(tuple(RESAMPLINGS), "is no resampling")]
_Summary = Annotated[str, one_of(tuple(SUMMARIES), "is no summary")]


class InferenceFields(BaseModel):
    """How p-values are corrected."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    contrasts: TextList | None = Field(None, description="Names of contrasts; default: all.")
    resampling: _Resampling = Field(
        "flip_scores",
        description="flip_scores (default: signs of the scores of independent groups of images), "
        "or, of a linear model, permute (Freedman-Lane) or flip_data (signs of residuals).",
    )
    n: Annotated[Count, Field(ge=2)] = Field(
        1000, description="Resamplings, the observed data being the first; default 1000."
    )
    seed: CountOrNone = Field(0, description="Of the resamplings; default 0.")
    summaries: tuple[_Summary, ...] = Field(
        (),
        description="What is corrected: voxel (the maximum), cluster (extent), mass, tfce; "
        "default: all.",
    )
    cluster_z: Annotated[float, above_zero("a positive z, such as 3.1")] | None = Field(
        None, description="z above which voxels form clusters; default: that of cluster_p."
    )
    cluster_p: Annotated[float, above_zero("a positive p, such as 0.001"), Field(lt=0.5)] = Field(
        0.001, description="One-sided p below which voxels form clusters; default 0.001."
    )
    sides: Annotated[str, one_of(SIDES)] = Field(
        "two", description="Sides of T tests: two (default), or one, of positive effects."
    )
    joint: bool = Field(False, description="Correct across all these contrasts, too.")
    neighbours: Count | None = Field(
        None, description="Voxels that touch another one: 6, 18 or 26 (default)."
    )
    blocks: Text | None = Field(
        None,
        description="Images that are exchanged as one, or among themselves: a column of the "
        "table of the formula, or a file with a label for each line of model/images.tsv, such as "
        "a .grp of FSL.",
    )
    exchange: Annotated[str, one_of(EXCHANGES)] = Field(
        "within",
        description="With permute and blocks: images within blocks (default), whole blocks, or "
        "both.",
    )
    tail: bool = Field(
        True, description="Fit the tail of the null distribution for p below 1 / n (default)."
    )
    fdr: Annotated[str, one_of(CORRECTIONS)] = Field(
        "bh", description="False discovery rate: bh (Benjamini-Hochberg, default) or by."
    )
    atlas: FilePath | None = Field(None, description="Image of labels, which name peaks.")
    atlas_names: FilePath | None = Field(
        None, description="Table of the names of its labels: columns index and name."
    )
    distance_mm: Annotated[float, above_zero("a positive distance in mm")] = Field(
        8.0, description="Least distance between peaks of a cluster, in mm; default 8."
    )


class InferenceWords(TraitWords):
    """Words of those who give options of ``nipype-blm infer``."""

    def name(self, field: str) -> str:
        """Return the option of a field."""
        return {"max_bytes": "--max-mem-gb"}.get(field, f"--{field.replace('_', '-')}")

    def setting(self, field: str, value: Any) -> str:
        """Return how a field is given a value."""
        return f"{self.name(field)} {value}"


WORDS = InferenceWords()


def make_inference_options(
    given: Mapping[str, Any], name: Callable[[str], str], base: Path | None = None
) -> InferenceOptions:
    """Return what is asked for, checked.

    Parameters
    ----------
    given : mapping
        Fields by their names here; those that are None count as not given.
    name : callable
        What the user calls a field.
    base : Path, optional
        Where relative paths start; default: the current folder.

    Raises
    ------
    InputError
        With all faults together.
    """
    values = {field: value for field, value in given.items() if value is not None}
    summaries = values.get("summaries")
    if isinstance(summaries, str):
        summaries = [summaries]
    if isinstance(summaries, list):
        words = [str(each).replace(",", " ").split() for each in summaries]
        values["summaries"] = list(dict.fromkeys(word for some in words for word in some))
    try:
        fields = InferenceFields.model_validate(values, context={"base": base or Path.cwd()})
    except ValidationError as error:
        raise InputError([_explain(fault, name) for fault in error.errors()]) from error
    _check_atlas(fields, name)
    return InferenceOptions(**dict(fields))


def _check_atlas(fields: InferenceFields, name: Callable[[str], str]) -> None:
    """Read what names peaks now, rather than when all else is done."""
    from nipype_blm.data.atlas import read_atlas

    if fields.atlas is not None:
        read_atlas(fields.atlas, fields.atlas_names, name("atlas"))
    elif fields.atlas_names is not None:
        raise InputError(
            Problem(
                None,
                "{names} was given without {atlas}, whose labels it names.",
                names=name("atlas_names"),
                atlas=name("atlas"),
            )
        )


def _explain(fault: Any, name: Callable[[str], str]) -> Problem:
    field = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        known = {each.lower(): each for each in InferenceFields.model_fields}
        nearest = name(find_nearest(field, known))
        template = "{name} is not a known field; the nearest known one is {nearest}."
        return Problem(None, template, name=shorten(name(field)), nearest=nearest)
    return Problem(None, "{name}: {fault}.", name=name(field), fault=describe_fault(fault))
