"""See beforehand whether a circuit can be computed from what is there."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import erfc, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, show
from nipype_blm.ngv.checks.atlas import AtlasFiles, check_atlas, check_files, check_room
from nipype_blm.ngv.checks.findings import Box, Findings
from nipype_blm.ngv.checks.neurons import check_cells, check_circuit, check_index, check_synapses
from nipype_blm.ngv.checks.synthesis import check_synthesis
from nipype_blm.ngv.checks.vessels import check_mesh, check_vasculature
from nipype_blm.ngv.circuit.hdf5 import require_h5py
from nipype_blm.ngv.environment.companion import SCRIPTS, CompanionError, run_command
from nipype_blm.ngv.environment.finding import Environment
from nipype_blm.ngv.recipe.reading import Recipe, find_missing_files
from nipype_blm.ngv.recipe.region import Region
from nipype_blm.ngv.stages import STAGES

_STRATEGIES = ("maximum_reachout", "random_selection")
# Potentials of cell placement, and how many numbers each takes.
_POTENTIALS = {"spring": 2, "coulomb": 1, "inverse_distance": 1, "lenard_jones": 2}
# Names, in the request, of keys of the recipe, which are files of their own.
_FILES = {
    "vasculature": "vasculature",
    "vasculature_mesh": "mesh",
    "base_circuit_cells": "cells",
    "base_circuit_connectome": "synapses",
    "base_spatial_synapse_index_dir": "index",
    "base_circuit_sonata": "circuit",
}


class Checked(NamedTuple):
    """What the inputs of a circuit have told."""

    notices: Sequence[str]  # of what is no fault but may not be meant
    region: Region | None  # None if no cells are placed


def check_inputs(recipe: Recipe, environment: Environment) -> Checked:
    """Return what is to be known of the inputs of a circuit, if it can be computed.

    Only what the stages read that are asked for is looked at.  Volumes are read once, in pieces;
    of the skeleton all points; of the mesh, of synapses and of their index, if they are large,
    samples.

    Raises
    ------
    InputError
        With all that is wrong.
    """
    require_h5py()  # which nobody would miss before the first stages have ended
    findings = Findings(find_missing_files(recipe), [])
    _check_values(recipe, findings)
    paths = _find_paths(recipe)
    if "synthesis" in recipe.stages:
        files = {name: path for name, path in recipe.files.items() if path.is_file()}
        check_synthesis(files, findings)
    atlas = _find_atlas(recipe)
    request: dict[str, Any] = {name: {"path": str(path)} for name, path in paths.items()}
    if atlas is not None and check_files(atlas, findings):
        request["atlas"] = {
            "folder": str(atlas.folder),
            "region": atlas.region,
            "volumes": {name: atlas.find(name).name for name in atlas.volumes},
        }
    if "mesh" in paths and "vasculature" in paths:
        request["mesh"]["skeleton"] = str(paths["vasculature"])
    if "index" in paths and "synapses" in paths:
        request["index"]["synapses"] = str(paths["synapses"])
    facts = _inspect(request, environment) if request else {}
    region = None
    if atlas is not None and "atlas" in facts:
        region = check_atlas(atlas, facts["atlas"], findings)
        if region is not None:
            _check_numbers(recipe, region, facts["atlas"]["box"], findings)
    _check_files(paths, facts, findings)
    if findings.problems:
        raise InputError(findings.problems)
    return Checked(findings.notices, region)


def _check_files(paths: Mapping[str, Path], facts: Mapping[str, Any], findings: Findings) -> None:
    """Check all but the atlas."""
    atlas = facts.get("atlas", {})
    has_skeleton = "vasculature" in paths and check_vasculature(
        paths["vasculature"], atlas, facts["vasculature"], findings
    )
    if "mesh" in paths:
        own = facts["mesh"]
        if not has_skeleton:  # which is the fault if they do not match
            own = {key: value for key, value in own.items() if key != "match"}
        check_mesh(paths["mesh"], own, findings)
    if "cells" in paths:
        check_cells(paths["cells"], facts["cells"], findings)
    n_synapses = None
    if "synapses" in paths and check_synapses(
        paths["synapses"], atlas, facts["synapses"], findings
    ):
        n_synapses = facts["synapses"]["n_synapses"]
    if "index" in paths:
        synapses = paths.get("synapses", Path())
        check_index(paths["index"], synapses, facts["index"], n_synapses, findings)
    if "circuit" in paths:
        others = {"nodes": "cells", "edges": "synapses"}
        own_files = {kind: paths[name] for kind, name in others.items() if name in paths}
        check_circuit(paths["circuit"], own_files, facts["circuit"], findings)


def _find_paths(recipe: Recipe) -> dict[str, Path]:
    """Return the files that are looked at, by their names in a request, if they are there."""
    # The configuration of a circuit names these, and nobody reads them for it.
    named_only = {"vasculature", "vasculature_mesh"}
    keys = {
        key
        for stage in recipe.stages
        for key in STAGES[stage].common
        if stage != "ngv_config" or key not in named_only
    }
    paths = {name: Path(recipe.common[key]) for key, name in _FILES.items() if key in keys}
    return {
        name: p for name, p in paths.items() if (p.is_dir() if name == "index" else p.is_file())
    }


def _find_atlas(recipe: Recipe) -> AtlasFiles | None:
    if not {"cell_placement", "microdomains"} & {*recipe.stages}:
        return None
    folder = Path(recipe.common["atlas"])
    if not folder.is_dir():
        return None
    density = recipe.manifest.get("cell_placement", {}).get("density")
    return AtlasFiles(folder, recipe.common.get("region"), density, recipe.common.get("mask"))


def _inspect(request: Mapping[str, Any], environment: Environment) -> Any:
    """Have the other Python look at files."""
    with TemporaryDirectory(prefix="nipype_blm_ngv_") as scratch:
        folder = Path(scratch)
        question, answer, log = (folder / name for name in ("request.json", "facts.json", "log"))
        question.write_text(json.dumps(request))
        argv = [str(SCRIPTS / "inspect_inputs.py"), str(question), str(answer)]
        ended = run_command(environment.python, argv, folder, log)
        if ended.code:
            raise CompanionError(f"inputs could not be looked at: {ended.describe()}")
        return json.loads(answer.read_text())


def _check_values(recipe: Recipe, findings: Findings) -> None:
    """Check what ArchNGV looks up by name."""
    sections = recipe.manifest
    if "gliovascular_connectivity" in recipe.stages:
        name = sections["gliovascular_connectivity"]["connection"]["reachout_strategy"]
        if name not in _STRATEGIES:
            _refuse_name(
                "gliovascular_connectivity.connection.reachout_strategy",
                name,
                _STRATEGIES,
                findings,
            )
    if "cell_placement" in recipe.stages:
        for name, values in sections["cell_placement"]["Energy"]["potentials"].items():
            where = "cell_placement.Energy.potentials"
            n = _POTENTIALS.get(name)
            if n is None:
                _refuse_name(where, name, _POTENTIALS, findings)
            elif len(values) != n:
                findings.refuse(f"{where}.{name}: {show(values)} was given; it has to have {n}.")
    if "assign_emodels" in recipe.stages:
        template = sections["assign_emodels"]["hoc_template"]
        if template.startswith("hoc:") or "/" in template or template != template.strip():
            findings.refuse(
                f"assign_emodels.hoc_template: {show(template)} was given; expected the name of a "
                "template, as astrocyte.hoc, without folder and without hoc: before it."
            )


def _refuse_name(where: str, name: str, known: Any, findings: Findings) -> None:
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    findings.refuse(f"{where}: {name} is not known{hint}  There are {', '.join(known)}.")


def _check_numbers(recipe: Recipe, region: Region, box: Box, findings: Findings) -> None:
    """Check distributions that fail only for some of all cells."""
    check_room(region, box, recipe.manifest["cell_placement"]["soma_radius"][0], findings)
    if "microdomains" not in recipe.stages:
        return
    mean, deviation = recipe.manifest["microdomains"]["overlap_distribution"]["values"]
    scale = max(deviation, 1e-300) * sqrt(2)
    outside = (erfc(mean / scale) + erfc((2 - mean) / scale)) / 2
    if region.expected * outside >= 0.5:
        findings.refuse(
            f"microdomains.overlap_distribution: a mean of {mean:g} and a deviation of "
            f"{deviation:g} give {outside:.2g} of all domains an overlap below 0 or above 2, at "
            "which ArchNGV stops; choose a smaller deviation, or another mean."
        )
