"""What every stage of a TBSS reads: the images, the options, the pieces, and where files are."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.tbss.engines import ENGINES
from nipype_blm.tbss.options import FA, PATH_OPTIONS, Options

PLAN_FILE = "tbss.json"
# Counted up when images are prepared or brought into standard space in another way.
_METHOD = 1
_STAGES = ("choose", "skeleton", "assemble")  # that find something odd, in their order


class Subject(NamedTuple):
    """One observation: its image of FA, and its other maps."""

    name: str  # of its files; nobody else has it
    images: dict[str, Path]  # by measure, FA first
    stamps: dict[str, str]  # of path, size and time of each


class Paths:
    """Where everything of a TBSS is."""

    def __init__(self, out_dir: Path, work_dir: Path) -> None:
        self.out_dir, self.work_dir = out_dir, work_dir
        self.stats = out_dir / "stats"
        self.warps = out_dir / "warps"
        self.subjects_table = out_dir / "subjects.tsv"
        self.mean_fa = self.stats / "mean_FA.nii.gz"
        self.mean_fa_mask = self.stats / "mean_FA_mask.nii.gz"
        self.skeleton = self.stats / "mean_FA_skeleton.nii.gz"
        self.skeleton_mask = self.stats / "mean_FA_skeleton_mask.nii.gz"
        self.distance = self.stats / "mean_FA_skeleton_mask_dst.nii.gz"
        self.directions = self.stats / "mean_FA_skeleton_directions.nii.gz"
        self.pairs_table = out_dir / "pairs.tsv"
        self.tract_sizes = out_dir / "tract_voxels.tsv"
        self.pairs = work_dir / "pairs"
        self.standard = work_dir / "standard"  # images in the space of the template
        self.target = work_dir / "target.json"

    def find_standard(self, name: str, measure: str) -> Path:
        """Return the image of an observation in standard space."""
        return self.standard / measure / f"{name}_{measure}.nii.gz"

    def find_record(self, name: str) -> Path:
        """Return what is noted of the registration of an observation."""
        return self.standard / f"{name}.json"

    def find_warp(self, name: str) -> Path:
        """Return the displacement field of an observation, on the grid of the target."""
        return self.warps / f"{name}_warp.nii.gz"

    def find_skeletonised(self, name: str, measure: str) -> Path:
        """Return the image of an observation on the skeleton."""
        return self.out_dir / "skeletonised" / measure / f"{name}_{measure}.nii.gz"

    def find_notices(self, stage: str) -> Path:
        """Return what a stage found odd."""
        return self.work_dir / f"notices_{stage}.json"

    def find_tracts(self, measure: str) -> Path:
        """Return the table of means by tract."""
        return self.out_dir / f"tracts_{measure}.tsv"


@dataclass(frozen=True)
class Plan:
    """Everything that the stages of a TBSS have to know."""

    options: Options
    subjects: Sequence[Subject]
    out_dir: Path
    work_dir: Path
    spacing: float  # of the cubes on which images are registered, in mm
    batches: Sequence[Sequence[int]]  # numbers of the subjects that a node takes
    pair_bundles: Sequence[Sequence[tuple[int, int]]] = ()  # (fixed, moving)
    notices: Sequence[str] = field(default=(), compare=False)

    @property
    def paths(self) -> Paths:
        """Where files are."""
        return Paths(self.out_dir, self.work_dir)

    @property
    def measures(self) -> list[str]:
        """FA, and the others that are projected."""
        return list(self.subjects[0].images)

    def stamp_pair(self, fixed: int, moving: int) -> str:
        """Return what tells a registration of two images from an earlier one."""
        stamps = (self.subjects[i].stamps[FA] for i in (fixed, moving))
        return fingerprint(*stamps, self._method)

    def stamp_subject(self, index: int, target: str) -> str:
        """Return what tells the registration of an image to a target from an earlier one."""
        return fingerprint(self.subjects[index].stamps[FA], target, self._method)

    @property
    def _method(self) -> str:
        return _describe_method(self.options.engine, self.spacing)

    def write(self, path: Path) -> None:
        """Write the plan, for the stages."""
        data = {
            "options": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(self.options).items()
            },
            "subjects": [
                [each.name, {k: str(v) for k, v in each.images.items()}, each.stamps]
                for each in self.subjects
            ],
            "out_dir": str(self.out_dir),
            "work_dir": str(self.work_dir),
            "spacing": self.spacing,
            "batches": self.batches,
            "pair_bundles": self.pair_bundles,
        }
        write_if_changed(path, f"{json.dumps(data)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan."""
        data = json.loads(path.read_text())
        options: dict[str, Any] = {
            name: Path(value) if name in PATH_OPTIONS and value is not None else value
            for name, value in data["options"].items()
        }
        return cls(
            Options(**options),
            [
                Subject(name, {k: Path(v) for k, v in images.items()}, stamps)
                for name, images, stamps in data["subjects"]
            ],
            Path(data["out_dir"]),
            Path(data["work_dir"]),
            data["spacing"],
            data["batches"],
            [[(i, j) for i, j in bundle] for bundle in data["pair_bundles"]],
        )


@lru_cache  # of a million pairs
def _describe_method(engine: str, spacing: float) -> str:
    """Return what registrations depend on beside the images."""
    known = ENGINES[engine]
    return json.dumps((_METHOD, engine, known.settings, known.find_version(), spacing))


def stamp_file(path: Path) -> str:
    """Return what tells a file from what had its name before."""
    state = read_state(path)
    return fingerprint(f"{path} {state.size} {state.mtime_ns}")


def write_notices(plan: Plan, stage: str, notices: Sequence[str]) -> None:
    """Keep what a stage found odd, in the place of what it found in an earlier run."""
    content = f"{json.dumps(list(notices))}\n".encode()
    write_if_changed(plan.paths.find_notices(stage), content)


def read_notices(plan: Plan) -> list[str]:
    """Return what all stages found odd, for who runs them elsewhere."""
    paths = [plan.paths.find_notices(stage) for stage in _STAGES]
    return [notice for path in paths if path.is_file() for notice in json.loads(path.read_text())]
