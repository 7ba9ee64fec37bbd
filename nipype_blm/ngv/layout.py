"""Where the files of a circuit are, as ArchNGV's own workflow lays them out."""

from pathlib import Path

from nipype_blm.ngv.stages import STAGES

# What ArchNGV calls the populations of a circuit; its configuration of a circuit has no others.
ASTROCYTES, VASCULATURE = "astrocytes", "vasculature"
GLIOVASCULAR, NEUROGLIAL, GLIALGLIAL = "gliovascular", "neuroglial", "glialglial"


class Layout:
    """The files of a circuit.

    Parameters
    ----------
    folder : Path
        Of the circuit; what is computed goes into ``build``, which `ngv_config.json` relies on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build = build = folder / "build"
        self.recipe = build / "recipe"  # what was asked for, with absolute paths
        self.manifest = self.recipe / "MANIFEST.yaml"
        self.region = self.recipe / "region.json"
        sonata, unfinished = build / "sonata" / "networks", build / "sonata.tmp"
        self.vasculature = sonata / "nodes" / VASCULATURE / "nodes.h5"
        self.somata = unfinished / "nodes" / "glia.somata.h5"
        self.emodels = unfinished / "nodes" / "glia.emodels.h5"
        self.astrocytes = sonata / "nodes" / ASTROCYTES / "nodes.h5"
        self.microdomains = build / "microdomains.h5"
        self.gliovascular_connectivity = unfinished / "edges" / "gliovascular.connectivity.h5"
        self.neuroglial_connectivity = unfinished / "edges" / "neuroglial.connectivity.h5"
        self.endfeet_meshes = build / "endfeet_meshes.h5"
        self.morphologies = build / "morphologies"
        self.touches = build / "connectome" / "touches"
        self.gliovascular = sonata / "edges" / GLIOVASCULAR / "edges.h5"
        self.neuroglial = sonata / "edges" / NEUROGLIAL / "edges.h5"
        self.glialglial = sonata / "edges" / GLIALGLIAL / "edges.h5"
        self.surface_mesh = build / "ngv_prepared_tetrahedral_mesh.stl"
        self.mesh_script = build / "ngv_prepared_tetrahedral_mesh.geo"
        self.volume_mesh = build / "ngv_tetrahedral_mesh.msh"
        self.refined_mesh = build / "ngv_refined_tetrahedral_mesh.msh"
        self.config = build / "ngv_config.json"
        self.integrity = build / "integrity.txt"

    def find_recipe(self, stage: str) -> Path:
        """Return what a stage was computed from."""
        return self.recipe / "stages" / f"{stage}.yaml"

    def find_product(self, stage: str) -> Path:
        """Return the file, or folder, that a stage writes."""
        product: Path = getattr(self, STAGES[stage].product)
        return product
