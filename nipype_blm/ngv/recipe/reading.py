"""Read what is asked of a circuit: ArchNGV's bioname folder, or one YAML file."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nipype_blm.errors import InputError, show
from nipype_blm.io.yamlfile import read_yaml
from nipype_blm.ngv.environment.finding import expand
from nipype_blm.ngv.recipe.manifest import FILES, FOLDERS, SECTIONS, resolve
from nipype_blm.ngv.stages import ALL, STAGES, TNS_FILES, find_stage, select_stages

MANIFEST = "MANIFEST.yaml"
CLUSTER = "cluster.yaml"
DEFAULT = "__default__"  # of a cluster.yaml, for stages that it does not name
# Populations are what ArchNGV's configuration of a circuit calls them, whatever else is asked for.
_FIXED = ("node_population_name", "edge_population_name")


class TouchOptions(BaseModel):
    """How touches between astrocytes are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_overlap: Annotated[float, Field(ge=0)] = 0.0  # as `find_touches` has these
    gap: Annotated[float, Field(ge=0)] = 5.0
    spacing: Annotated[float, Field(gt=0)] = 6.0
    command: str | None = Field(
        default=None,
        description="another program that finds them: a command with {astrocytes}, {morphologies}, "
        "{recipe} and {touches} (the folder for its touches.* and touchesData.* files) in it",
    )


@dataclass(frozen=True)
class Recipe:
    """What is asked of a circuit.

    Parameters
    ----------
    source : Path
        Folder or file that it was read from.
    bioname : Path
        Folder that paths are relative to.
    manifest : mapping
        Sections of MANIFEST.yaml; paths are absolute.
    stages : sequence of str
        That are asked for, in their order.
    files : mapping of str to Path
        Parameters of synthesis, by name.
    seeds : mapping of str to int
        Of each stage that draws numbers.
    cluster : mapping of str to mapping
        Resources, by stage, as cluster.yaml has them; `DEFAULT` are those of what is no stage.
    touches : TouchOptions
    ngv_python : Path or None
    """

    source: Path
    bioname: Path
    manifest: Mapping[str, Any]
    stages: Sequence[str]
    files: Mapping[str, Path]
    seeds: Mapping[str, int]
    cluster: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    touches: TouchOptions = field(default_factory=TouchOptions)
    ngv_python: Path | None = None

    @property
    def common(self) -> Mapping[str, Any]:
        """The section of places, and of what is taken of them."""
        return self.manifest["common"]

    def select(self, stage: str) -> dict[str, Any]:
        """Return what a stage reads of the manifest: a change of the rest is none for it."""
        sections = {name: self.manifest[name] for name in STAGES[stage].sections}
        kept = ("region", "mask", *STAGES[stage].common)
        common = {key: self.common[key] for key in kept if self.common.get(key) is not None}
        return {"common": common} | deepcopy(sections)


def read_recipe(
    source: str | Path, until: Sequence[str] | None = None, seed: int | None = None
) -> Recipe:
    """Read what is asked of a circuit.

    Parameters
    ----------
    source : path
        A folder with MANIFEST.yaml, tns_distributions.json, ... as ArchNGV's is, or the folder
        around that, where it is called ``bioname``; or a YAML file: a
        MANIFEST.yaml itself, or one with ``bioname`` (that folder) and whatever differs from its
        manifest; also with ``seeds``, ``cluster``, ``touches``, ``ngv_python``, ``until`` and the
        paths of the other files.
    until : sequence of str, optional
        Stages to be reached; default: what the file says, or all.
    seed : int, optional
        In place of that of the manifest.

    Raises
    ------
    InputError
        With every key that is missing or cannot be used, of the stages that are asked for.
    """
    path = expand("CONFIG", Path(source)).absolute()
    own, bioname, manifest_path = _read_source(path)
    data = _merge(
        read_manifest(manifest_path) if manifest_path else {},
        {k: v for k, v in own.items() if k in SECTIONS},
    )
    stages = select_stages(until or _read_until(own.get("until"), path))
    if seed is not None and isinstance(data.get("common") or {}, dict):
        data = _merge(data, {"common": {"seed": seed}})
    problems: list[str] = []
    sources = {name: path if name in own else manifest_path or path for name in SECTIONS}
    manifest = _check_manifest(data, stages, sources, bioname, problems)
    files = {
        name: resolve(path.parent, str(own[name])) if name in own else bioname / f"{name}.json"
        for name in TNS_FILES
    }
    seeds = _read_seeds(own.get("seeds"), manifest.get("common", {}).get("seed", 0), path, problems)
    cluster = _read_cluster(own.get("cluster"), bioname, path, problems)
    touches = _read_touches(own.get("touches"), path, problems)
    if problems:
        raise InputError(problems)
    python = own.get("ngv_python")
    return Recipe(
        path,
        bioname,
        manifest,
        stages,
        files,
        seeds,
        cluster,
        touches,
        None if python is None else resolve(path.parent, str(python)),
    )


_OWN = ("bioname", "seeds", "cluster", "touches", "ngv_python", "until", *TNS_FILES)


def _read_source(path: Path) -> tuple[dict[str, Any], Path, Path | None]:
    """Return what a YAML file has of its own, the folder of the recipe, and its manifest."""
    if path.is_dir():
        folder = path / "bioname" if (path / "bioname" / MANIFEST).is_file() else path
        return {}, folder, _find_manifest(folder)
    if not path.is_file():
        raise InputError(
            f"CONFIG {path} is not there; give ArchNGV's bioname folder, which has {MANIFEST}, or "
            "a YAML file.  `nipype-blm ngv example FOLDER` writes one to start from."
        )
    data = _read_mapping(path, "CONFIG")
    data = data["ngv"] if isinstance(data.get("ngv"), dict) else data
    data = {name: value for name, value in data.items() if value is not None}
    if not data.keys() & {"bioname", *SECTIONS}:
        raise InputError(
            f"CONFIG {path} has none of {', '.join(['bioname', *SECTIONS])}; expected ArchNGV's "
            "MANIFEST.yaml, or a file that names its folder as bioname."
        )
    if "bioname" not in data:
        return data, path.parent, None
    unknown = [str(name) for name in data if name not in (*_OWN, *SECTIONS)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*_OWN, *SECTIONS], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"CONFIG {path} has {unknown[0]}, which nobody reads{hint}.")
    bioname = resolve(path.parent, str(data["bioname"]))
    return data, bioname, _find_manifest(bioname)


def _find_manifest(folder: Path) -> Path:
    found = [folder / name for name in (MANIFEST, "MANIFEST.yml") if (folder / name).is_file()]
    if found:
        return found[0]
    what = "has no" if folder.is_dir() else "is no folder with a"
    raise InputError(f"CONFIG {folder} {what} {MANIFEST}; give ArchNGV's bioname folder.")


def _read_mapping(path: Path, name: str) -> dict[str, Any]:
    data = read_yaml(path, name)
    if not isinstance(data, dict):
        raise InputError(f"{name} {path} holds {show(data)}; expected sections, as `common:`.")
    return data


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the sections of a MANIFEST.yaml, as they stand there."""
    data = _read_mapping(path, MANIFEST)
    # That of a circuit of neurons may have it as a section.
    return data["ngv"] if isinstance(data.get("ngv"), dict) else data


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping in which another one has the last word, also deeper inside."""
    merged = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read_until(value: Any, path: Path) -> list[str]:
    names = value if isinstance(value, list) else [value or ALL]
    return [find_stage(str(name)) for name in names or [ALL]]


def _check_manifest(
    data: Mapping[str, Any],
    stages: Sequence[str],
    sources: Mapping[str, Path],
    bioname: Path,
    problems: list[str],
) -> dict[str, Any]:
    """Return the sections that stages need, with absolute paths; note all that is wrong.

    `sources` are the files that sections are from.
    """
    where = f"{sources['common']}: "
    sections = {"common", *(name for stage in stages for name in STAGES[stage].sections)}
    manifest: dict[str, Any] = {}
    missing: list[str] = []
    for name in SECTIONS:
        if name not in sections:
            continue
        try:
            checked = SECTIONS[name].model_validate(data.get(name) or {})
        except ValidationError as error:
            for fault in error.errors():
                _note(name, fault, f"{sources[name]}: ", missing, problems)
            continue
        manifest[name] = checked.model_dump(by_alias=True, exclude_none=True)
    common = manifest.get("common", {})
    needed = {key: stage for stage in reversed(stages) for key in STAGES[stage].common}
    missing += [f"common.{key}" for key in needed if common and key not in common]
    if missing:
        problems.append(
            f"{where}{', '.join(dict.fromkeys(missing))} "
            f"{'is' if len(missing) == 1 else 'are'} missing, which the stages that are asked for "
            "need; add what is missing, or ask for less with until."
        )
    renamed = [key for key in _FIXED if common.get(key)]
    if renamed:
        problems.append(
            f"{where}common.{renamed[0]} cannot be given: ArchNGV's configuration of a circuit "
            "finds populations by their usual names; leave it out."
        )
    for key in (*FILES, *FOLDERS):
        if key in common:
            below = resolve(bioname, common["base_circuit"]) if key == FILES[2] else bioname
            common[key] = str(resolve(below, common[key]))
    if common:
        common["base_circuit"] = str(resolve(bioname, common["base_circuit"]))
    return manifest


# What pydantic says is about an input; here it comes after that.
_SUBJECT = "^(Input|List|Value error,) "
_WORDS = {
    "model_type": "should be keys with values",
    "dict_type": "should be keys with values",
    "extra_forbidden": "is read by nobody",
}


def _note(section: str, fault: Any, where: str, missing: list[str], problems: list[str]) -> None:
    name = ".".join([section, *(str(part) for part in fault["loc"])])
    if fault["type"] == "missing":
        missing.append(name)
    else:
        text = _WORDS.get(fault["type"]) or re.sub(_SUBJECT, "", fault["msg"])
        problems.append(f"{where}{name}: {show(fault['input'])} was given; it {text}.")


def _read_seeds(value: Any, default: int, path: Path, problems: list[str]) -> dict[str, int]:
    seeds = {name: default for name, stage in STAGES.items() if stage.is_seeded}
    given = value or {}
    if not isinstance(given, dict):
        problems.append(f"{path}: seeds: {show(value)} was given; expected numbers by stage.")
        return seeds
    for name, seed in given.items():
        stage = find_stage(str(name), "seeds:")
        is_seed = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
        if stage not in seeds:
            problems.append(f"{path}: seeds: {name} draws no numbers.")
        elif not is_seed:
            problems.append(
                f"{path}: seeds: {name}: {show(seed)} was given; expected a whole number from 0 to "
                f"{2**32 - 1}."
            )
        else:
            seeds[stage] = seed
    return seeds


def _read_cluster(
    value: Any, bioname: Path, path: Path, problems: list[str]
) -> dict[str, dict[str, Any]]:
    """Return resources by stage, each with the defaults; those of ``cluster.yaml``, if none."""
    is_own = isinstance(value, dict)
    if value is None:
        path = bioname / CLUSTER
        value = read_yaml(path, CLUSTER) if path.is_file() else {}
    elif isinstance(value, str):
        path = resolve(path.parent, value)
        value = _read_mapping(path, "cluster")
    entries = value or {}
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict | None) for entry in entries.values()
    ):
        problems.append(
            f"{path}: cluster: {show(value)} was given; expected resources by stage, as "
            "`synthesis: {time: 04:00:00, mem: 8G}`."
        )
        return {}
    default = dict(entries.get(DEFAULT) or {})
    # Other workflows have stages of other names in the same cluster.yaml.
    if is_own:
        problems += [
            f"{path}: cluster: {name} is no stage of a circuit."
            for name in entries
            if name != DEFAULT and str(name).replace("-", "_") not in STAGES
        ]
    known = dict.fromkeys([DEFAULT, *STAGES], default) if default else {}
    for name, entry in entries.items():
        plain = str(name).replace("-", "_")
        if plain in STAGES:
            known[plain] = default | dict(entry or {})
    return known


def _read_touches(value: Any, path: Path, problems: list[str]) -> TouchOptions:
    try:
        return TouchOptions.model_validate(value or {})
    except ValidationError as error:
        for fault in error.errors():
            _note("touches", fault, f"{path}: ", [], problems)
        return TouchOptions()


def find_missing_files(recipe: Recipe) -> list[str]:
    """Return what is wrong with the files and folders that the stages of a recipe read."""
    wanted: dict[str, Path] = {}
    for stage in recipe.stages:
        wanted |= {f"common.{key}": Path(recipe.common[key]) for key in STAGES[stage].common}
        wanted |= {name: recipe.files[name] for name in STAGES[stage].files}
    problems = []
    for name, path in wanted.items():
        is_folder = name.partition(".")[2] in FOLDERS
        if not (path.is_dir() if is_folder else path.is_file()):
            kind = "folder" if is_folder else "file"
            what = f"is no {kind}" if path.exists() else "is not there"
            problems.append(f"{name}: {path} {what}; paths are relative to {recipe.bioname}.")
        elif not os.access(path, os.R_OK):
            problems.append(f"{name}: {path} cannot be read by you.")
    return problems
