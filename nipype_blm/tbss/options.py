"""What can be asked of a TBSS, as plain data: no image is needed to tell."""

from dataclasses import dataclass, fields
from pathlib import Path

FA = "FA"
TARGETS = ("template", "most_representative")
ENGINE_NAMES = ("greedy", "ants", "fsl")

DESCRIPTIONS = {
    "template": "FA image to register to, and on whose grid results are; such as FMRIB58_FA_1mm",
    "target": "template (default): every image is registered to it; most_representative: every "
    "image to every other one, then to that which needs least deformation, and from there to the "
    "template, if one is given, by an affine",
    "engine": f"what registers images: {', '.join(ENGINE_NAMES)}; default greedy",
    "threshold": "mean FA from which the skeleton counts; default 0.2",
    "mask_share": "share of the images that must have FA at a voxel of the mask; default 1, which "
    "is all; ENIGMA has 0.9",
    "min_correlation": "with the target, below which a registration has failed; default 0.6",
    "max_failed": "share of the images that may be left out as failed; default 0.1",
    "tubular_mask": "mask where tracts are tubes, and all directions across are searched; such as "
    "LowerCingulum_1mm",
    "search_mask": "mask of the voxels that may be searched; default: that of mean FA",
    "skeleton": "skeleton that is there already, such as ENIGMA's, on the grid of the template",
    "directions": "vectors across tracts, along the axes of voxels: an image of three volumes on "
    "the grid of the template; where they are 0, and by default, they are found in mean FA",
    "atlas": "image of labels: mean along the skeleton by label, of each image, as a table",
    "atlas_names": "names of its labels: a table with the columns index and name, a list of "
    "FreeSurfer, ITK-SNAP or AAL, or XML of FSL or SPM",
    "write_4d": "all images in one file, too, as FSL has them (all_FA, all_FA_skeletonised)",
}


@dataclass(frozen=True)
class Options:
    """How a TBSS is done: see `DESCRIPTIONS`."""

    template: Path | None = None
    target: str = "template"  # one of TARGETS
    engine: str = "greedy"  # one of ENGINE_NAMES
    threshold: float = 0.2
    mask_share: float = 1.0
    min_correlation: float = 0.6
    max_failed: float = 0.1
    tubular_mask: Path | None = None
    search_mask: Path | None = None
    skeleton: Path | None = None
    directions: Path | None = None
    atlas: Path | None = None
    atlas_names: Path | None = None
    write_4d: bool = True

    @property
    def files(self) -> dict[str, Path]:
        """The files that are given, by the names of options."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if isinstance(value, Path)}


PATH_OPTIONS = {each.name for each in fields(Options) if each.type == (Path | None)}
