"""The stages of a circuit: what each needs of a recipe, and which others come before it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from nipype_blm.errors import InputError


class Stage(NamedTuple):
    """One stage, named as the rules of ArchNGV's own workflow are."""

    after: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()  # of the manifest
    common: tuple[str, ...] = ()  # keys of its section of that name
    files: tuple[str, ...] = ()  # beside it
    is_seeded: bool = False
    product: str = ""  # of `Layout`; every stage has one


# What synthesis reads beside the manifest.
TNS_FILES = ("tns_distributions", "tns_parameters", "tns_context", "er_data")
_CELLS = ("finalize_astrocytes",)
STAGES: Mapping[str, Stage] = {
    "sonata_vasculature": Stage(
        common=("vasculature",),
        product="vasculature",
    ),
    "cell_placement": Stage(
        ("sonata_vasculature",), ("cell_placement",), ("atlas",), is_seeded=True, product="somata"
    ),
    "assign_emodels": Stage(
        ("cell_placement",),
        ("assign_emodels",),
        product="emodels",
    ),
    "finalize_astrocytes": Stage(
        ("cell_placement", "assign_emodels"),
        product="astrocytes",
    ),
    "microdomains": Stage(
        _CELLS, ("microdomains",), ("atlas",), is_seeded=True, product="microdomains"
    ),
    "gliovascular_connectivity": Stage(
        ("microdomains", "sonata_vasculature"),
        ("gliovascular_connectivity",),
        is_seeded=True,
        product="gliovascular_connectivity",
    ),
    "neuroglial_connectivity": Stage(
        ("microdomains",),
        common=("base_circuit_cells", "base_circuit_connectome", "base_spatial_synapse_index_dir"),
        is_seeded=True,
        product="neuroglial_connectivity",
    ),
    "endfeet_area": Stage(
        ("gliovascular_connectivity",),
        ("endfeet_surface_meshes",),
        ("vasculature_mesh",),
        is_seeded=True,
        product="endfeet_meshes",
    ),
    "synthesis": Stage(
        ("endfeet_area", "neuroglial_connectivity"),
        ("synthesis",),
        ("base_circuit_connectome",),
        TNS_FILES,
        is_seeded=True,
        product="morphologies",
    ),
    "finalize_gliovascular_connectivity": Stage(
        ("synthesis",), is_seeded=True, product="gliovascular"
    ),
    "finalize_neuroglial_connectivity": Stage(
        ("synthesis",), common=("base_circuit_connectome",), is_seeded=True, product="neuroglial"
    ),
    "glial_gap_junctions": Stage(
        ("synthesis",),
        product="touches",
    ),
    "glialglial_connectivity": Stage(
        ("glial_gap_junctions",), is_seeded=True, product="glialglial"
    ),
    "prepare_tetrahedral": Stage(
        (*_CELLS, "sonata_vasculature"),
        ("tetrahedral_mesh",),
        ("base_circuit_cells",),
        product="surface_mesh",
    ),
    "build_tetrahedral": Stage(
        ("prepare_tetrahedral",),
        product="volume_mesh",
    ),
    "refine_tetrahedral": Stage(
        ("build_tetrahedral",), ("tetrahedral_mesh",), product="refined_mesh"
    ),
    "ngv_config": Stage(
        common=("vasculature", "vasculature_mesh", "base_circuit_sonata"), product="config"
    ),
    "integrity": Stage(
        (
            *("finalize_gliovascular_connectivity", "finalize_neuroglial_connectivity"),
            *("glialglial_connectivity", "ngv_config"),
        ),
        product="integrity",
    ),
}
ALL = "all"
_ALIASES = {
    # Of earlier versions of ArchNGV: cell_placement writes SONATA itself today.
    "cell_data_sonata": "cell_placement",
    "sonata_tmp": "cell_placement",
    "endfeet_areas": "endfeet_area",
    "touches": "glial_gap_junctions",
    "verify_circuit_integrity": "integrity",
}


def find_stage(name: str, field: str = "until") -> str:
    """Return the stage that a user names in a field, with hyphens or underscores.

    Raises
    ------
    InputError
    """
    plain = name.strip().lower().replace("-", "_")
    found = _ALIASES.get(plain, plain)
    if found in STAGES or found == ALL:
        return found
    near = get_close_matches(plain, [*STAGES, *_ALIASES], 1)
    hint = f"did you mean {near[0]}?  " if near else ""
    raise InputError(f"{field} {name} is no stage; {hint}They are {', '.join(STAGES)}.")


def select_stages(until: Iterable[str] = (ALL,)) -> list[str]:
    """Return stages, and all that come before them, in their order."""
    wanted: set[str] = set()
    waiting = [find_stage(name) for name in until]
    if ALL in waiting:
        return list(STAGES)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += STAGES[name].after
    return [name for name in STAGES if name in wanted]


def find_later(names: Iterable[str]) -> set[str]:
    """Return all stages that come after some."""
    later: set[str] = set()
    for name, stage in STAGES.items():  # in their order
        if later.union(names) & set(stage.after):
            later.add(name)
    return later
