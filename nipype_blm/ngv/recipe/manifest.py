"""The sections of ArchNGV's MANIFEST.yaml: what each has to hold, and which stages read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nipype_blm.ngv.environment.finding import expand

# A normal distribution between two bounds: mean, standard deviation, least, most.
_Normal = Annotated[list[float], Field(min_length=4, max_length=4)]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]


def _read_text(value: Any) -> str:
    """Return a path or a name; an empty path is that of the recipe's folder."""
    if isinstance(value, list | dict):
        raise ValueError("should be text")
    return "" if value is None else str(_refuse_truth(value))


def _refuse_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("is a truth value in YAML, as On, Yes and No are: put a name in quotes")
    return value


_Text = Annotated[str, BeforeValidator(_read_text)]
_Name = Annotated[_Text, Field(min_length=1)]
_Seed = Annotated[int, BeforeValidator(_refuse_truth), Field(ge=0, lt=2**32)]


class _Section(BaseModel):
    """Keys that ArchNGV may know besides stay as they are."""

    model_config = ConfigDict(extra="allow")


class Common(_Section):
    """The places of what is there before; which of it a circuit takes."""

    atlas: _Name | None = None
    vasculature: _Name | None = None
    vasculature_mesh: _Name | None = None
    base_circuit: _Text = ""
    base_circuit_sonata: _Name | None = None
    base_circuit_cells: _Name | None = None
    base_circuit_connectome: _Name | None = None
    base_spatial_synapse_index_dir: _Name | None = None
    seed: _Seed = 0
    region: _Name | None = None
    mask: _Name | None = None


class AssignEmodels(_Section):
    """Electrical models."""

    hoc_template: _Name


class _Energy(_Section):
    potentials: dict[str, list[float]] = Field(min_length=1)


class _MetropolisHastings(_Section):
    n_initial: Annotated[int, Field(gt=0)]
    beta: float
    ntrials: Annotated[int, Field(gt=0)]
    cutoff_radius: _Positive


class CellPlacement(_Section):
    """Where somata are, and how large."""

    density: _Name
    soma_radius: _Normal
    energy: _Energy = Field(alias="Energy")
    metropolis_hastings: _MetropolisHastings = Field(alias="MetropolisHastings")


class _Overlap(_Section):
    values: Annotated[list[float], Field(min_length=2, max_length=2)]


class Microdomains(_Section):
    """Overlap of neighbouring domains."""

    overlap_distribution: _Overlap


class _GraphTargeting(_Section):
    linear_density: _Positive


class _Connection(_Section):
    reachout_strategy: _Name
    endfeet_distribution: _Normal


class GliovascularConnectivity(_Section):
    """How many endfeet astrocytes have, and where vessels can have them."""

    graph_targeting: _GraphTargeting
    connection: _Connection
    surface_targeting: dict[str, Any] = {}


class EndfeetSurfaceMeshes(_Section):
    """How large endfeet are."""

    fmm_cutoff_radius: _Positive
    area_distribution: _Normal
    thickness_distribution: _Normal


class _StatisticalModel(_Section):
    slope: float
    intercept: float
    standard_deviation: _Positive


class _Smoothing(_Section):
    window: list[float] = Field(min_length=1)


class _Perimeters(_Section):
    enabled: bool
    statistical_model: _StatisticalModel | None = None
    smoothing: _Smoothing | None = None

    @model_validator(mode="before")
    @classmethod
    def _ask_for_model(cls, data: Any) -> Any:
        """Have what is missing named, if perimeters are to be computed at all."""
        if isinstance(data, dict) and data.get("enabled"):
            return {"statistical_model": {}, "smoothing": {}} | data
        return data


class _Resampling(_Section):
    enabled: bool
    linear_density: _Positive = Field(1.0, alias="linear-density")


class Synthesis(_Section):
    """What happens to morphologies when they are grown."""

    perimeter_distribution: _Perimeters
    resampling: _Resampling | None = None


class TetrahedralMesh(_Section):
    """How fine the mesh of the extracellular volume is."""

    surface_mesh_subdivision_steps: _Count
    refinement_subdividing_steps: _Count = 1


SECTIONS: dict[str, type[BaseModel]] = {
    "common": Common,
    "assign_emodels": AssignEmodels,
    "cell_placement": CellPlacement,
    "microdomains": Microdomains,
    "gliovascular_connectivity": GliovascularConnectivity,
    "endfeet_surface_meshes": EndfeetSurfaceMeshes,
    "synthesis": Synthesis,
    "tetrahedral_mesh": TetrahedralMesh,
}
# Of `Common`, what names a file or a folder.
FILES = (
    *("vasculature", "vasculature_mesh", "base_circuit_sonata", "base_circuit_cells"),
    "base_circuit_connectome",
)
FOLDERS = ("atlas", "base_spatial_synapse_index_dir")
# What stages get of the section `common`, and what their inputs are called.
PLACES = {
    "atlas": "atlas",
    "vasculature": "vasculature",
    "vasculature_mesh": "vasculature_mesh",
    "base_circuit_cells": "neurons",
    "base_circuit_connectome": "neuronal_connectivity",
    "base_spatial_synapse_index_dir": "synapse_index",
}


def resolve(folder: Path, path: str) -> Path:
    """Return a path of a manifest, which is relative to its folder, as ArchNGV takes some.

    The steps upwards in it are gone, as they are in what ArchNGV writes of it.

    Raises
    ------
    InputError
        If it begins with ~ and the name of nobody.
    """
    found = Path(folder, expand("the path", Path(path))).absolute()
    if found.name == "..":
        return found.resolve()
    # After a link, a step upwards leads elsewhere than the names say.
    return found.parent.resolve() / found.name if ".." in found.parts else found


def choose_part(manifest: Mapping[str, Any] | None, *names: str) -> Mapping[str, Any]:
    """Return a part of a manifest; what is not there is empty.

    All of it may be under ``ngv``, beside what builds neurons.
    """
    found: Any = manifest or {}
    found = found.get("ngv", found)
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
