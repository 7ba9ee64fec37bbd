"""Write down what a circuit is made from, a file for each stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nipype_blm.errors import InputError
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.ngv.environment import Environment
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.manifest import FOLDERS
from nipype_blm.ngv.recipe import Recipe, find_missing_files
from nipype_blm.ngv.stages import STAGES, TNS_FILES

RECIPE_FILE = "astrocyte_gap_junction_recipe.xml"  # of touchdetector
# What stages get of the section `common`, and what their inputs are called.
PLACES = {
    "atlas": "atlas",
    "vasculature": "vasculature",
    "vasculature_mesh": "vasculature_mesh",
    "base_circuit_cells": "neurons",
    "base_circuit_connectome": "neuronal_connectivity",
    "base_spatial_synapse_index_dir": "synapse_index",
}


class Prepared(NamedTuple):
    """What the stages of a circuit read."""

    places: Mapping[str, Path]  # of `PLACES`
    files: Mapping[str, Path]  # of `TNS_FILES`
    configs: Mapping[str, Path]  # by stage, of those that have one
    seeds: Mapping[str, int]  # by stage
    hoc_template: str | None
    refinement_steps: int


def prepare(recipe: Recipe, environment: Environment, layout: Layout) -> Prepared:
    """Write the recipe of a circuit into its folder; files that stay the same keep their time.

    Raises
    ------
    InputError
        If a file or folder is missing that a stage needs.
    """
    problems = find_missing_files(recipe)
    if problems:
        raise InputError(problems)
    layout.recipe.mkdir(parents=True, exist_ok=True)
    _write_yaml(layout.manifest, dict(recipe.manifest))
    wanted = {name for stage in recipe.stages for name in STAGES[stage].files}
    files = {name: layout.recipe / f"{name}.json" for name in TNS_FILES if name in wanted}
    for name, place in files.items():
        write_if_changed(place, recipe.files[name].read_bytes())
    other = recipe.bioname / RECIPE_FILE
    if other.is_file():
        write_if_changed(layout.recipe / RECIPE_FILE, other.read_bytes())
    configs = {}
    for stage in recipe.stages:
        if STAGES[stage].sections or STAGES[stage].common:
            configs[stage] = layout.recipe / "stages" / f"{stage}.yaml"
            _write_yaml(configs[stage], _describe(recipe, stage, environment))
    _drop_others(layout)
    read = {key for stage in recipe.stages for key in STAGES[stage].common}
    emodels = recipe.manifest.get("assign_emodels", {})
    mesh = recipe.manifest.get("tetrahedral_mesh", {})
    return Prepared(
        {PLACES[key]: Path(recipe.common[key]) for key in PLACES if key in read},
        files,
        configs,
        recipe.seeds,
        emodels.get("hoc_template"),
        mesh.get("refinement_subdividing_steps", 1),
    )


def _drop_others(layout: Layout) -> None:
    for path in (layout.recipe / "stages").glob("*.yaml"):
        if path.stem not in STAGES:
            path.unlink()


def _describe(recipe: Recipe, stage: str, environment: Environment) -> dict[str, Any]:
    """Return what a stage depends on: its part of the manifest, and what folders hold."""
    folders = {
        key: _list_states(Path(recipe.common[key]))
        for key in STAGES[stage].common
        if key in FOLDERS
    }
    # Nobody reads these; a node runs again when they are others.
    return recipe.select(stage) | {"computed_from": folders | {"versions": environment.stamp}}


def _list_states(folder: Path) -> dict[str, list[int]]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: list(read_state(path)[:2]) for path in files}


def _write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    write_if_changed(path, yaml.safe_dump(dict(data), sort_keys=False).encode())
