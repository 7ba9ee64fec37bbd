"""Results in the names of nilearn, as BIDS is going to have them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nipype_blm import __version__
from nipype_blm.data.maps import MapInfo
from nipype_blm.errors import InputError, show
from nipype_blm.results.declared import DECLARED
from nipype_blm.results.export import (
    Exported,
    ExportedKind,
    ExportedMap,
    make_pattern,
    publish_export,
    read_volumes,
    select_contrasts,
)
from nipype_blm.results.results import ContrastResults, Results

_STATMAP = "group/{entities}contrast-{label}_stat-"
MAPS = (
    ExportedKind(
        "group/{entities}mask", "run", "mask", "label", "mask_file", "voxels in the result"
    ),
    ExportedKind(f"{_STATMAP}effect_statmap", "any", "effect", "estimate", "effect_maps", "effect"),
    ExportedKind(
        f"{_STATMAP}variance_statmap", "any", "variance", "estimate", "variance_maps", "variance"
    ),
    ExportedKind(f"{_STATMAP}{{test}}_statmap", "any", "stat", "", "stat_maps", "T or F"),
    ExportedKind(f"{_STATMAP}z_statmap", "any", "z", "z score", "zscore_maps", "z"),
    ExportedKind(f"{_STATMAP}p_statmap", "any", "p", "p value", "pvalue_maps", "p"),
    ExportedKind(
        f"{_STATMAP}dof_statmap", "any", "dof", "none", "dof_maps", "error degrees of freedom"
    ),
    ExportedKind(
        f"{_STATMAP}rsquared_statmap", "F", "conR2", "estimate", "rsquared_maps", "partial R2"
    ),
    ExportedKind(
        "group/{entities}contrast-{label}_desc-estimable_mask",
        *("any", "estimable", "label", "contrast_masks", "where the contrast is estimable"),
    ),
)
TEXTS = (
    *("group/{entities}design.tsv", "group/{entities}design.json", "dataset_description.json"),
    *("README.md", ".bidsignore"),
)
_OURS = make_pattern(MAPS, TEXTS)
DEFAULT_FOLDER = "bids"  # in that of the results
ENTITIES = ("task", "space")  # in the order of names
_BIDS_VERSION = "1.11.1"
_README = """\
# Statistical maps of nipype_blm

`group/` has the maps of one model, in the names that nilearn gives. BIDS has no such names yet, so
that `.bidsignore` lists the folder. The JSON file beside each map says what it is: the contrast and
its weights, degrees of freedom, units and the model.
"""


def export_bids(
    results: Results,
    out_dir: Path | None = None,
    contrasts: Sequence[str] | None = None,
    entities: Mapping[str, str] | None = None,
    sources: Sequence[str] = (),
    overwrite: bool = False,
) -> Exported:
    """Write results as a BIDS derivative, in the names of nilearn.

    Parameters
    ----------
    results : Results
    out_dir : Path, optional
        Default: `DEFAULT_FOLDER` in that of the results.
    contrasts : sequence of str, optional
        Default: all.
    entities : mapping of str to str, optional
        Labels of `ENTITIES` in names of files.  One that is not given is that which the names
        of all images share, if they do; "" leaves it out.
    sources : sequence of str, optional
        URLs of the data sets that the images are of.
    overwrite : bool
        Replace also the export of other results.

    Raises
    ------
    InputError
        If a contrast is not known, a label is none, or the folder has files of somebody else.
    """
    chosen = select_contrasts(results, contrasts)
    prefix = _format_entities(find_entities(results) | dict(entities or {}))
    model = _describe_model(results)
    maps = [made for each in MAPS for made in _list_maps(each, results, chosen, prefix, model)]
    texts = {
        f"group/{prefix}design.tsv": _format_design(results),
        f"group/{prefix}design.json": _dump(_describe_design(results, model)),
        "dataset_description.json": _dump(_describe_data(results, sources)),
        "README.md": _README,
        ".bidsignore": "/group\n",
    }
    folder = results.folder / DEFAULT_FOLDER if out_dir is None else out_dir
    return publish_export(results, folder, "bids", maps, texts, _OURS, overwrite)


def find_entities(results: Results) -> dict[str, str]:
    """Return the labels that the names of all images share."""
    names = {Path(each.image).name for each in results.images}
    found = {}
    for entity in ENTITIES:
        pattern = re.compile(rf"(?:^|_){entity}-([A-Za-z0-9]+)(?=[_.])")
        labels = {match[1] if (match := pattern.search(name)) else "" for name in names}
        if len(labels) == 1:
            found[entity] = labels.pop()
    return found


def _format_entities(entities: Mapping[str, str]) -> str:
    unknown = [name for name in entities if name not in ENTITIES]
    if unknown:
        raise InputError(
            f"{show(unknown[0])} is no entity of an export; give {', '.join(ENTITIES)}."
        )
    for name, label in entities.items():
        if not re.fullmatch("[A-Za-z0-9]*", label):
            raise InputError(
                f"{show(label)} is no label of {name}; BIDS has letters and digits there, and "
                "nothing else."
            )
    return "".join(f"{name}-{entities[name]}_" for name in ENTITIES if entities.get(name))


def _list_maps(
    declared: ExportedKind,
    results: Results,
    contrasts: Sequence[ContrastResults],
    prefix: str,
    model: Mapping[str, Any],
) -> Iterator[ExportedMap]:
    """Yield the maps of a kind."""
    if declared.of == "run":
        yield _make_map(declared, results, declared.file.format(entities=prefix), model)
        return
    for contrast in contrasts:
        is_of_test = declared.of in ("any", "F" if contrast.is_f else "T")
        if is_of_test and (declared.kind != "estimable" or contrast.has_gaps):
            test = "F" if contrast.is_f else "t"
            file = declared.file.format(entities=prefix, label=contrast.label, test=test)
            if declared.kind == "conR2":
                yield _make_partial_r2(declared, contrast, file, model)
            else:
                yield _make_map(declared, contrast, file, model)


def _make_map(
    declared: ExportedKind,
    owner: Results | ContrastResults,
    file: str,
    model: Mapping[str, Any],
) -> ExportedMap:
    said = owner.describe(declared.kind)
    info = MapInfo(
        file,
        said.pop("Description"),
        *_find_intent(declared, owner),
        tuple(said.pop("Volumes", ())) or None,
        said | _find_units(declared.kind) | {"Model": model},
    )
    read = partial(read_volumes, owner, declared.kind)
    dtype = owner.dtype(declared.kind).newbyteorder("=")
    return ExportedMap(info, owner.path(declared.kind), read, dtype, declared.output)


def _make_partial_r2(
    declared: ExportedKind, contrast: ContrastResults, file: str, model: Mapping[str, Any]
) -> ExportedMap:
    """Return the volume of an F contrast in the map of all."""
    results, name = contrast.results, declared.kind
    one = _make_map(declared, results, file, model)
    said = {k: v for k, v in contrast.describe("stat").items() if k.startswith(("Contrast", "Deg"))}
    details = (one.info.details or {}) | said
    details.pop("Contrasts", None)
    info = one.info._replace(
        volumes=None, details=details, description=f"Partial R2 of F: {contrast.name}"
    )
    return replace(one, info=info, read=lambda: [results.vector(name, contrast.name)])


def _find_intent(
    declared: ExportedKind, owner: Results | ContrastResults
) -> tuple[str, tuple[float, ...]]:
    """Return the intent and its parameters: rows of F, and the median degrees of freedom."""
    if declared.kind != "stat" or not isinstance(owner, ContrastResults):
        return declared.intent, ()
    median = float(owner.describe("stat")["DegreesOfFreedom"]["Median"])
    return ("f test", (float(len(owner.weights)), median)) if owner.is_f else ("t test", (median,))


def _find_units(kind: str) -> dict[str, str]:
    units = {each.name: each.units for each in DECLARED}.get(kind, "–")
    return {} if units == "–" else {"Units": units}


def _describe_model(results: Results) -> dict[str, Any]:
    """Return what the sidecars say of the model."""
    said: dict[str, Any] = {
        "Type": "linear mixed model" if results.factors else "linear model",
        "NumberOfImages": len(results.images),
        **({} if results.study is None else {"Formula": results.study.formula}),
        "Columns": list(results.column_names),
    }
    if results.factors:
        named = zip(results.factors, results.effect_names, strict=True)
        said["RandomFactors"] = [
            {"Name": factor.name, "Levels": factor.n_levels, "Effects": list(effects)}
            for factor, effects in named
        ]
        said["Criterion"] = results.criterion
    return said


def _format_design(results: Results) -> str:
    # A cell may not be empty, nor have a tab.
    names = [" ".join(name.split()) or "n/a" for name in results.column_names]
    rows = ["\t".join(map(repr, row)) for row in results.X.tolist()]
    return "\n".join(["\t".join(names), *rows]) + "\n"


def _describe_design(results: Results, model: Mapping[str, Any]) -> dict[str, Any]:
    columns = {
        " ".join(name.split()): {"Description": f"Column {i} of the design matrix."}
        for i, name in enumerate(results.column_names, 1)
    }
    return columns | {"Model": model}


def _describe_data(results: Results, sources: Sequence[str]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "Name": "Statistical maps of nipype_blm",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "nipype_blm",
                "Version": results.versions.get("nipype_blm", __version__),
                "Description": "Linear and linear mixed models at every voxel.",
            }
        ],
    }
    return said | ({"SourceDatasets": [{"URL": url} for url in sources]} if sources else {})


def _dump(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
