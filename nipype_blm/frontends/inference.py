"""What is asked of corrected inference, checked at once: of a configuration, options or traits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nipype_blm.core.clusters.summaries import SUMMARIES
from nipype_blm.core.resampling.declared import RESAMPLINGS
from nipype_blm.errors import InputError, Problem, shorten, show
from nipype_blm.frontends.faults import describe_fault, find_nearest
from nipype_blm.frontends.values import (
    Count,
    CountOrNone,
    FilePath,
    Text,
    TextList,
    above_zero,
    one_of,
    parse_number,
)
from nipype_blm.frontends.words import TraitWords
from nipype_blm.model.inference import (
    CORRECTIONS,
    EXCHANGES,
    SIDES,
    InferenceOptions,
)

_LEAST_Z, _MOST_P = 1, 0.5  # of heights: others are p for z, or z for p


def _read_z(value: Any) -> float:
    z = parse_number(value)
    if z < _LEAST_Z:
        p = "; a p has an option of its own" if z > 0 else ""
        raise ValueError(f"{show(value)} is no height of clusters, such as 3.1{p}")
    return z


def _read_p(value: Any) -> float:
    p = parse_number(value)
    if not 0 < p < _MOST_P:
        z = "; a z has an option of its own" if p >= _LEAST_Z else ""
        raise ValueError(f"{show(value)} is no p that forms clusters, such as 0.001{z}")
    return p


_Resampling = Annotated[str, one_of(tuple(RESAMPLINGS), "is no resampling")]
_Summary = Annotated[str, one_of(tuple(SUMMARIES), "is no summary")]


class InferenceFields(BaseModel):
    """How p-values are corrected."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    contrasts: TextList | None = None
    resampling: _Resampling = "flip_scores"
    n: Annotated[Count, Field(ge=2)] = 1000
    seed: CountOrNone = 0
    summaries: tuple[_Summary, ...] = ()
    cluster_z: Annotated[float, BeforeValidator(_read_z)] | None = None
    cluster_p: Annotated[float, BeforeValidator(_read_p)] = 0.001
    tfce_e: Annotated[float, above_zero("an exponent above 0")] = 0.5
    tfce_h: Annotated[float, above_zero("an exponent above 0")] = 2.0
    sides: Annotated[str, one_of(SIDES)] = "two"
    joint: bool = False
    neighbours: Count | None = None
    blocks: Text | None = None
    exchange: Annotated[str, one_of(EXCHANGES)] = "within"
    tail: bool = True
    fdr: Annotated[str, one_of(CORRECTIONS)] = "bh"
    atlas: FilePath | None = None
    atlas_names: FilePath | None = None
    distance_mm: Annotated[float, above_zero("a positive distance in mm")] = 8.0


class InferenceWords(TraitWords):
    """Words of those who give options of ``nipype-blm infer``."""

    def name(self, field: str) -> str:
        """Return the option of a field."""
        flags = {"max_bytes": "--max-mem-gb", "contrasts": "--contrast", "tail": "--no-tail"}
        return flags.get(field, f"--{field.replace('_', '-')}")

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
    given = dict(fields)
    if fields.blocks is not None and base is not None and (base / fields.blocks).is_file():
        given["blocks"] = str(base / fields.blocks)
    return InferenceOptions(**given)


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
