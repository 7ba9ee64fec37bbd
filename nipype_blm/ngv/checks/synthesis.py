"""See whether parameters of synthesis have what ArchNGV and NeuroTS read of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype_blm.errors import count, join_some, show
from nipype_blm.ngv.checks.findings import Findings

# Processes at synapses grow as basal dendrites do, those to vessels as axons.
_TYPES = ("basal", "axon")
_METHODS = ("tmd_space_colonization", "tmd_space_colonization_target")
_OF_TYPE = (
    *("growth_method", "branching_method", "tree_type", "randomness", "targeting", "radius"),
    *("metric", "modify", "step_size.norm", "barcode_scaling"),
)
_OF_DIAMETERS = (
    *("sibling_ratios", "diameter_power_relation", "terminal_diameters"),
    *("trunk_diameters", "tapers"),
)
# Paths of keys that are read.
_KEYS = {
    "tns_parameters": (
        *("grow_types", "diameter_params.models", "diameter_params.neurite_types"),
        *(f"{kind}.{key}" for kind in _TYPES for key in _OF_TYPE),
    ),
    "tns_distributions": (
        "soma",
        *(f"{kind}.{key}" for kind in _TYPES for key in ("num_trees", "persistence_diagram")),
        *(f"{kind}.filtration_metric" for kind in _TYPES),
        *(f"diameter.{key}.{kind}" for key in _OF_DIAMETERS for kind in _TYPES),
    ),
    "tns_context": (
        *("field.type", "space_colonization.kill_distance_factor"),
        "space_colonization.influence_distance_factor",
    ),
}


def check_synthesis(files: Mapping[str, Path], findings: Findings) -> None:
    """Check parameters of synthesis, which nobody reads before cells are grown.

    Parameters
    ----------
    files : mapping of str to Path
        As `TNS_FILES` calls them.
    findings : Findings
    """
    for name, path in files.items():
        try:
            data = json.loads(path.read_bytes())
        except ValueError as error:
            findings.refuse(f"{name}: {path} is no JSON ({error}).")
            continue
        if name == "er_data":
            _check_reticulum(f"{name}: {path}", data, findings)
        else:
            _check_keys(name, path, data, findings)


def _check_keys(name: str, path: Path, data: Any, findings: Findings) -> None:
    missing = [key for key in _KEYS[name] if not _has(data, key.split("."))]
    if missing:
        findings.refuse(
            f"{name}: {path} lacks {join_some(missing, 6)}, which synthesis reads; is it of "
            "astrocytes, and of this kind?"
        )
    elif name == "tns_parameters":
        _check_types(f"{name}: {path}", data, findings)


def _has(data: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _check_types(where: str, data: Mapping[str, Any], findings: Findings) -> None:
    lists = (data["grow_types"], data["diameter_params"]["neurite_types"])
    for key, names in zip(("grow_types", "diameter_params.neurite_types"), lists, strict=True):
        if not isinstance(names, list) or sorted(map(str, names)) != sorted(_TYPES):
            findings.refuse(f"{where} has {key} {show(names)}; expected basal and axon.")
    methods = [data[kind]["growth_method"] for kind in _TYPES]
    if tuple(methods) != _METHODS:
        findings.refuse(
            f"{where} has growth_method {join_some(methods)} of basal and axon; expected "
            f"{join_some(_METHODS)}, by which astrocytes grow."
        )


def _check_reticulum(where: str, data: Any, findings: Findings) -> None:
    expected = "expected a list of [bars, data], with the same number of both, and ER in each data"
    if not isinstance(data, list) or not data:
        findings.refuse(f"{where} holds {show(data)}; {expected}.")
        return
    wrong = [i for i, entry in enumerate(data) if not _is_barcode(entry)]
    if wrong:
        n = count(len(wrong), "entry").replace("entrys", "entries")
        findings.refuse(f"{where} has {n} of another form (the first is {wrong[0]}); {expected}.")


def _is_barcode(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(part, list) for part in entry)
        and len(entry[0]) == len(entry[1])
        and all(isinstance(each, dict) and "ER" in each for each in entry[1])
    )
