"""Write down what a circuit is made from, a file for each stage."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nipype_blm.errors import InputError, join_some
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.ngv.environment.finding import Environment
from nipype_blm.ngv.layout import Layout
from nipype_blm.ngv.recipe.manifest import FOLDERS, PLACES, SECTIONS
from nipype_blm.ngv.recipe.reading import Recipe, find_missing_files, read_manifest
from nipype_blm.ngv.recipe.region import Region
from nipype_blm.ngv.stages import STAGES, TNS_FILES, find_later

RECIPE_FILE = "astrocyte_gap_junction_recipe.xml"  # of touchdetector


class Prepared(NamedTuple):
    """What the stages of a circuit read."""

    places: Mapping[str, Path]  # of `PLACES`
    files: Mapping[str, Path]  # of `TNS_FILES`
    configs: Mapping[str, Path]  # by stage
    seeds: Mapping[str, int]  # by stage
    hoc_template: str | None
    refinement_steps: int


def prepare(
    recipe: Recipe, environment: Environment, layout: Layout, region: Region | None = None
) -> Prepared:
    """Write the recipe of a circuit into its folder; files that stay the same keep their time.

    Parameters
    ----------
    recipe : Recipe
    environment : Environment
    layout : Layout
        Of the circuit.
    region : Region, optional
        That cells are placed in, as `check_inputs` has measured it.

    Raises
    ------
    InputError
        If a file or folder is missing that a stage needs; or if later stages, which are not asked
        for, would be left with what was computed from something else.
    """
    problems = find_missing_files(recipe)
    if problems:
        raise InputError(problems)
    contents = {stage: _list_dependencies(recipe, stage, environment) for stage in recipe.stages}
    changed = {stage for stage in contents if _is_changed(layout, stage, contents[stage])}
    _check_later(recipe, layout, changed)
    if changed:
        layout.integrity.unlink(missing_ok=True)
    layout.recipe.mkdir(parents=True, exist_ok=True)
    earlier = read_manifest(layout.manifest) if layout.manifest.is_file() else {}
    known = {**earlier, **recipe.manifest}
    _write_yaml(layout.manifest, {name: known[name] for name in SECTIONS if name in known})
    wanted = {name for stage in recipe.stages for name in STAGES[stage].files}
    if region is not None:
        region.write(layout.region)
    files = {name: layout.recipe / f"{name}.json" for name in TNS_FILES if name in wanted}
    for name, place in files.items():
        write_if_changed(place, recipe.files[name].read_bytes())
    other = recipe.bioname / RECIPE_FILE
    if other.is_file():
        write_if_changed(layout.recipe / RECIPE_FILE, other.read_bytes())
    configs = {stage: layout.find_recipe(stage) for stage in recipe.stages}
    for stage, path in configs.items():
        _write_yaml(path, contents[stage])
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


def _list_dependencies(recipe: Recipe, stage: str, environment: Environment) -> dict[str, Any]:
    """Return what a stage depends on: its part of the manifest, and what folders hold."""
    folders = {
        key: _list_states(Path(recipe.common[key]))
        for key in STAGES[stage].common
        if key in FOLDERS
    }
    seed = {"seed": recipe.seeds[stage]} if stage in recipe.seeds else {}
    # Nobody reads these; a node runs again when they are others.
    others = folders | seed | {"versions": environment.stamp}
    return recipe.select(stage) | {"computed_from": others}


def _is_changed(layout: Layout, stage: str, content: Mapping[str, Any]) -> bool:
    """Say whether a stage was computed from something else."""
    path = layout.find_recipe(stage)
    return path.is_file() and path.read_bytes() != _dump(content)


def _check_later(recipe: Recipe, layout: Layout, changed: Collection[str]) -> None:
    """Refuse to compute some stages anew whose later ones would stay as they are."""
    later = find_later(changed) - {*recipe.stages, "integrity"}
    kept = [name for name in STAGES if name in later and layout.find_product(name).exists()]
    if kept:
        first = next(name for name in STAGES if name in changed)
        raise InputError(
            f"{layout.folder} has {join_some(kept, 3)}, computed from another {first} than that "
            "asked for now, and until leaves them as they are.  Ask for all stages, which computes "
            "them again, or give another OUT."
        )


def _list_states(folder: Path) -> dict[str, list[int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): list(read_state(path)[:2]) for path in files}


def _write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    write_if_changed(path, _dump(data))


def _dump(data: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(data), sort_keys=False).encode()
