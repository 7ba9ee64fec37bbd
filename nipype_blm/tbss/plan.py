"""What is asked of a TBSS, checked before anything takes long; and what every stage reads of it."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from nipype_blm.errors import InputError, count, join_some
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import read_state, write_if_changed
from nipype_blm.tbss.engines import ENGINES, check_engine

FA = "FA"
TARGETS = ("template", "most_representative")
PLAN_FILE = "tbss.json"
_ENDINGS = re.compile(r"\.(nii|mgh|mgz|mnc|hdr|img|HEAD|BRIK)(\.(gz|bz2|zst))?$", re.IGNORECASE)
_OF_FA = re.compile(r"(?<=.)[_.-](FA|fa)$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # would break lines and columns of tables
# Pairs or subjects of a node: a minute or two of work, and enough nodes that all workers have some.
_MOST_IN_BUNDLE, _BUNDLES_PER_NODE, _MOST_BUNDLES = 12, 4, 5000
# Of the box around a brain, which is 140 x 190 x 150 mm of a human: cubes of 2 mm.
_REGISTRATION_VOXELS = 500_000

DESCRIPTIONS = {
    "template": "FA image to register to, and on whose grid results are; such as FMRIB58_FA_1mm",
    "target": "template (default): every image is registered to it; most_representative: every "
    "image to every other one, then to that which needs least deformation, and from there to the "
    "template, if one is given, by an affine",
    "engine": f"what registers images: {', '.join(ENGINES)}; default greedy",
    "threshold": "mean FA from which the skeleton counts; default 0.2",
    "mask_share": "share of the images that must have FA at a voxel of the mask; default 1, which "
    "is all; ENIGMA has 0.9",
    "min_correlation": "with the target, below which a registration has failed; default 0.6",
    "max_failed": "share of the images that may be left out as failed; default 0.1",
    "tubular_mask": "mask where tracts are tubes, and all directions across are searched; such as "
    "LowerCingulum_1mm",
    "search_mask": "mask of the voxels that may be searched; default: that of mean FA",
    "skeleton": "skeleton that is there already, such as ENIGMA's, on the grid of the template",
    "directions": "vectors across tracts, an image of three volumes on the grid of the template; "
    "default: found in mean FA",
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
    engine: str = "greedy"  # one of ENGINES
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


class Subject(NamedTuple):
    """One observation: its image of FA, and its other maps."""

    name: str  # of its files; nobody else has it
    images: dict[str, Path]  # by measure, FA first
    stamp: str  # of their names, sizes and times


class Paths:
    """Where everything of a TBSS is."""

    def __init__(self, out_dir: Path, work_dir: Path) -> None:
        self.out_dir, self.work_dir = out_dir, work_dir
        self.stats = out_dir / "stats"
        self.warps = out_dir / "warps"
        self.subjects_table = out_dir / "subjects.tsv"
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

    @property
    def reference(self) -> Path | None:
        """The image on whose grid results are; None: that of the target, once it is known."""
        return self.options.template

    def stamp_pair(self, fixed: int, moving: int) -> str:
        """Return what tells a registration of two images from an earlier one."""
        stamps = (self.subjects[fixed].stamp, self.subjects[moving].stamp)
        return fingerprint(*stamps, self._method)

    def stamp_subject(self, index: int, target: str) -> str:
        """Return what tells the registration of an image to a target from an earlier one."""
        return fingerprint(self.subjects[index].stamp, target, self._method)

    @property
    def _method(self) -> str:
        engine = ENGINES[self.options.engine]
        return json.dumps([self.options.engine, engine.settings, round(self.spacing, 6)])

    def write(self, path: Path) -> None:
        """Write the plan, for the stages."""
        data = {
            "options": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(self.options).items()
            },
            "subjects": [
                [each.name, {k: str(v) for k, v in each.images.items()}, each.stamp]
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
                Subject(name, {k: Path(v) for k, v in images.items()}, stamp)
                for name, images, stamp in data["subjects"]
            ],
            Path(data["out_dir"]),
            Path(data["work_dir"]),
            data["spacing"],
            data["batches"],
            [[(i, j) for i, j in bundle] for bundle in data["pair_bundles"]],
        )


PATH_OPTIONS = {each.name for each in fields(Options) if each.type == (Path | None)}


def make_plan(
    images: Mapping[str, Sequence[Path]],
    options: Options,
    out_dir: Path,
    work_dir: Path,
    parallel_nodes: int = 1,
) -> Plan:
    """Check what is asked of a TBSS, and cut its work into pieces.

    Parameters
    ----------
    images : mapping of str to sequence of Path
        Images of each measure, in one order; ``FA`` is one of them.
    options : Options
    out_dir, work_dir : Path
        For results, and for what can be removed when all is done.
    parallel_nodes : int
        Nodes that run at the same time.

    Raises
    ------
    InputError
        With all that is wrong with options and images.
    """
    from nipype_blm.tbss.checks import check_images, check_options
    from nipype_blm.tbss.images import read_volume
    from nipype_blm.tbss.pairs import list_missing

    images = {FA: images[FA], **{name: images[name] for name in images if name != FA}}
    check_engine(options.engine)
    check_options(options)
    checked = check_images(images, options.template)
    names = name_subjects(images[FA])
    subjects = [
        Subject(
            name,
            {measure: paths[i] for measure, paths in images.items()},
            _stamp([paths[i] for paths in images.values()]),
        )
        for i, name in enumerate(names)
    ]
    reference = options.template or images[FA][0]
    spacing = choose_spacing(read_volume(reference))
    n = len(subjects)
    plan = Plan(
        options, subjects, out_dir, work_dir, spacing, cut(list(range(n)), parallel_nodes),
        notices=checked,
    )  # fmt: skip
    if options.target == "template":
        return plan
    pairs = list_missing(plan)
    return Plan(**{**_shallow(plan), "pair_bundles": cut(pairs, parallel_nodes)})


def _shallow(plan: Plan) -> dict[str, Any]:
    return {each.name: getattr(plan, each.name) for each in fields(plan)}


def _stamp(paths: Sequence[Path]) -> str:
    parts = []
    for path in paths:
        state = read_state(path)
        parts.append(f"{path} {state.size} {state.mtime_ns}")
    return fingerprint(*parts)


def cut(items: Sequence[Any], parallel_nodes: int) -> list[list[Any]]:
    """Return pieces of a list: some for each node that runs at the same time, none too long."""
    n_pieces = max(-(-len(items) // _MOST_IN_BUNDLE), _BUNDLES_PER_NODE * parallel_nodes)
    n_pieces = min(n_pieces, _MOST_BUNDLES)
    size = max(1, -(-len(items) // n_pieces))
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def choose_spacing(reference: Any) -> float:
    """Return the side of the cubes on which images are registered, in mm.

    A human head gets 2 mm, as FNIRT's last level for FA is; other brains as many voxels, whatever
    their size.  Voxels are never made smaller than they are.
    """
    import numpy as np

    present = np.argwhere(reference.data)
    extent = (np.ptp(present, axis=0) + 1) * reference.zooms
    by_count = float(np.cbrt(extent.prod() / _REGISTRATION_VOXELS))
    smallest = float(np.cbrt(reference.zooms.prod()))
    return max(by_count, smallest)


def name_subjects(paths: Sequence[Path]) -> list[str]:
    """Return a name for each image: that of its file, with as many folders as tell it from others.

    Raises
    ------
    InputError
        If an image is given twice.
    """
    # Links to one file are one image, too.
    times = Counter(path.resolve() for path in paths)
    twice = [path for path in dict.fromkeys(paths) if times[path.resolve()] > 1]
    if twice:
        raise InputError(
            f"{count(len(twice), 'image')} given more than once: {join_some(twice, 5)}; every "
            "observation needs an image of its own."
        )
    stems = [_CONTROL.sub("_", _ENDINGS.sub("", path.name)) for path in paths]
    if all(_OF_FA.search(stem) for stem in stems):  # what is written ends in _FA anyway
        stems = [_OF_FA.sub("", stem) for stem in stems]
    names, depth = list(stems), 0
    while _find_alike(names):
        depth += 1
        names = [
            _CONTROL.sub("_", "_".join([*path.parent.parts[-depth:], stem]).replace("/", ""))
            for path, stem in zip(paths, stems, strict=True)
        ]
        if depth > max(len(path.parts) for path in paths):
            alike = _find_alike(stems)
            return [f"{i + 1:04d}_{each}" if i in alike else each for i, each in enumerate(stems)]
    return names


def _find_alike(names: Sequence[str]) -> set[int]:
    """Return the numbers of names that others have, too, on some file system."""
    keys = [unicodedata.normalize("NFC", name).casefold() for name in names]
    times = Counter(keys)
    return {i for i, key in enumerate(keys) if times[key] > 1}
