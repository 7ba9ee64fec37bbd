"""Make observations of a BIDS data set: choose images, and join the tables that describe them."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nipype_blm.data.kinds import is_image_path
from nipype_blm.errors import InputError, Problem, Problems, count, join_some, show
from nipype_blm.frontends.bidstables import join_tables
from nipype_blm.frontends.columns import natural_key
from nipype_blm.frontends.listed import fold_label
from nipype_blm.frontends.matching import explain_no_image
from nipype_blm.frontends.observations import Observations
from nipype_blm.io.bids import (
    ENTITIES,
    INDEXES,
    LONG_NAMES,
    PARTS,
    BidsFile,
    index_tree,
    is_data_set,
    read_description,
    strip_label,
)
from nipype_blm.model.request import ListedPath
from nipype_blm.model.study import Excluded

if TYPE_CHECKING:
    import pandas as pd

# What tells observations of one study apart; anything else has to be the same for all.
VARYING = ("subject", "session", "task", "acquisition", "direction", "run")
_NO_MAPS = frozenset({"mask", "dseg", "probseg", "xfm", "boldref", "sbref"})
_NONE = frozenset({"null", "none", "n/a"})
_SERIES = ("bold", "cbv", "asl", "dwi")
# Entities of a mask that an image need not have, and the other way round.
_OF_MASKS = frozenset({"description", "label", "contrast", "stat"})


def find_study(
    bids_dir: Path,
    derivatives: Sequence[Path | str] | None = None,
    filters: Mapping[str, str | Sequence[str]] | None = None,
    participants: Sequence[str] | None = None,
    own_masks: bool = False,
    on_missing_image: str = "refuse",
) -> Observations:
    """Return the images of a BIDS data set, with what its tables say of each.

    Parameters
    ----------
    bids_dir : Path
        A data set with `derivatives`, or one of derivatives itself.
    derivatives : sequence of Path or str, optional
        Folders, or names of folders in ``bids_dir/derivatives``.  Default: all of them.
    filters : mapping, optional
        What images must have: entities by their long or short names, or suffix, extension or
        datatype.  A value is a label; several labels; ``*`` for any; or ``null`` for none.
    participants : sequence of str, optional
        Subjects, with or without sub-.  Default: all.
    own_masks : bool
        Whether the brain mask of each image says where it has data.
    on_missing_image : str
        What becomes of images that are empty or not fetched: "refuse" or "drop".

    Returns
    -------
    Observations
        In natural order of their entities.  The frame has a column for each entity, with levels,
        and those of participants.tsv, sessions.tsv, scans.tsv and phenotype/, of str.

    Raises
    ------
    InputError
        If it is not clear which images are meant, or if there are none.
    """
    folders = _find_folders(bids_dir, derivatives)
    files = [file for folder in folders for file in index_tree(folder)]
    wanted = _check_filters(filters or {}, files)
    candidates = [file for file in files if _may_be_map(file, wanted)]
    chosen = _select_participants(candidates, participants)
    chosen, said = _apply_filters(chosen, wanted, files, folders)
    _refuse_ambiguous(chosen, wanted)
    chosen.sort(key=lambda file: [natural_key(file.entities.get(name, "")) for name in VARYING])
    _refuse_twins(chosen, wanted)
    chosen, excluded = _leave_out_absent(chosen, on_missing_image)
    rows = [_name_row(file, wanted) for file in chosen]
    images = [ListedPath(file.path, row) for file, row in zip(chosen, rows, strict=True)]
    subjects = None if participants is None else [strip_label(x, "subject") for x in participants]
    frame, without, notices = join_tables(_make_frame(chosen, rows), chosen, bids_dir, subjects)
    masks = None
    if own_masks:
        masks, of_masks = _find_masks(chosen, files, rows)
        notices += of_masks
    notices = [*said, *notices, *_note_repeats(chosen)]
    return Observations(frame, images, masks, [*excluded, *without], notices)


def _find_folders(bids_dir: Path, derivatives: Sequence[Path | str] | None) -> list[Path]:
    """Return the folders whose images are looked at."""
    if not bids_dir.is_dir():
        raise InputError(Problem("bids", "{bids} {path} is no folder.", path=bids_dir))
    parent = bids_dir / "derivatives"
    if derivatives is not None:
        return [_find_folder(each, parent) for each in derivatives]
    description = read_description(bids_dir)
    if description.get("DatasetType") == "derivative":
        return [bids_dir]
    folders = sorted(path for path in parent.glob("[!.]*/") if is_data_set(path))
    if folders:
        return folders
    if _has_maps(bids_dir):
        return [bids_dir]
    raise InputError(
        Problem(
            "bids",
            "{bids} {path} has no derivatives with a dataset_description.json or with folders of "
            "subjects: name the folder that has the maps of the first level in {derivatives}.",
            path=bids_dir,
        )
    )


def _find_folder(given: Path | str, parent: Path) -> Path:
    for path in (parent / given, Path(given).expanduser().absolute()):
        if path.is_dir():
            return path
    names = sorted(path.name for path in parent.glob("*") if path.is_dir())
    raise InputError(
        Problem(
            "derivatives",
            "{derivatives} {given} is no folder, and none in {parent}; there are: {names}.",
            given=show(str(given)),
            parent=parent,
            names=join_some(names) or "none",
        )
    )


def _has_maps(folder: Path) -> bool:
    """Return whether a folder without description has what only derivatives have."""
    return any(
        file.entities.keys() & {"description", "stat", "space"} for file in index_tree(folder)
    )


class _Filter(NamedTuple):
    """What an entity has to be."""

    labels: list[str | None]  # None: absent
    is_any: bool = False
    given: str = ""  # as a user wrote it

    @property
    def may_vary(self) -> bool:
        return self.is_any or len(self.labels) > 1

    def fits(self, name: str, label: str | None) -> bool:
        if self.is_any:
            return label is not None
        if name in INDEXES and label is not None and label.isdecimal():
            numbers = [int(x) for x in self.labels if x is not None and x.isdecimal()]
            return int(label) in numbers
        return label in self.labels


def _check_filters(
    filters: Mapping[str, str | Sequence[str]], files: Sequence[BidsFile]
) -> dict[str, _Filter]:
    """Return filters by long names."""
    known = {*ENTITIES, *PARTS}.union(*(file.entities for file in files))
    problems = Problems()
    wanted = {}
    for given, value in filters.items():
        name = LONG_NAMES.get(given, given)
        if name not in known:
            near = get_close_matches(given, [*known, *LONG_NAMES], n=1)
            advice = "  Is it {nearest}?" if near else ""
            problems.add(
                "filters",
                "{filters}: {given} is no entity of BIDS, nor suffix, extension or datatype."
                + advice,
                given=show(given),
                nearest=near[0] if near else "",
            )
            continue
        values = [value] if value is None or isinstance(value, str | int) else list(value)
        labels: list[str | None] = [
            None if x is None or str(x).casefold() in _NONE else strip_label(str(x), name)
            for x in values
        ]
        if name == "extension":
            labels = [x if x is None or x.startswith(".") else f".{x}" for x in labels]
        text = f"{given}={join_some(values, separator=',')}"
        wanted[name] = _Filter(labels, "*" in labels, text)
    if problems:
        raise InputError(problems)
    return wanted


def _may_be_map(file: BidsFile, wanted: Mapping[str, _Filter]) -> bool:
    """Return whether a file is an image that may be wanted: none of masks and labels, say."""
    if "subject" not in file.entities or not is_image_path(file.path):
        return False
    is_asked = "suffix" in wanted and wanted["suffix"].fits("suffix", file.suffix)
    if file.suffix in _NO_MAPS and not is_asked:
        return False
    ending = file.extension.casefold()
    is_grayordinates = ending.count(".") > 1 and ending.endswith(".nii")  # such as .dscalar.nii
    return not is_grayordinates or "extension" in wanted


def _select_participants(
    files: Sequence[BidsFile], participants: Sequence[str] | None
) -> list[BidsFile]:
    if participants is None:
        return list(files)
    wanted = [strip_label(str(each), "subject") for each in participants]
    known = {file.entities["subject"] for file in files}
    unknown = [label for label in wanted if label not in known]
    if unknown:
        some = []
        for label in unknown:
            near = [each for each in known if fold_label(each) == fold_label(label)]
            near = near or get_close_matches(label, sorted(known), n=1, cutoff=0.5)
            some.append(f"sub-{label}" + (f" (is it sub-{near[0]}?)" if near else ""))
        raise InputError(
            Problem(
                "participants",
                "{participants}: no image is of {some}.  There are images of {n}.",
                some=join_some(some),
                n=count(len(known), "subject"),
            )
        )
    return [file for file in files if file.entities["subject"] in wanted]


def _apply_filters(
    candidates: Sequence[BidsFile],
    wanted: Mapping[str, _Filter],
    files: Sequence[BidsFile],
    folders: Sequence[Path],
) -> tuple[list[BidsFile], list[str]]:
    """Return the images that have all that is wanted and are no time series; how many are."""
    chosen = list(candidates)
    for name, each in wanted.items():
        fit = [file for file in chosen if each.fits(name, file.tell(name))]
        if chosen and not fit:
            others = {key: other for key, other in wanted.items() if key != name}
            raise InputError(_explain_filter(name, each, _fit(candidates, others) or chosen))
        chosen = fit
    maps = [file for file in chosen if file.suffix not in _SERIES]
    if maps:
        series = [file for file in chosen if file.suffix in _SERIES]
        if not series:
            return maps, []
        notice = (
            f"{len(series)} time series fit as well, such as {series[0].path.name}, and are left "
            "out: a model needs one map of each observation."
        )
        return maps, [notice]
    if chosen:
        raise InputError(
            Problem(
                "filters",
                "All {n} that fit are time series ({names}, say): maps of the first level are "
                "needed, as nilearn, FitLins or FSL write them for each contrast; choose them by "
                "contrast, stat or suffix in {filters}.",
                n=count(len(chosen), "image"),
                names=chosen[0].path.name,
            )
        )
    raise InputError(_explain_none(files, folders))


def _fit(files: Sequence[BidsFile], wanted: Mapping[str, _Filter]) -> list[BidsFile]:
    return [
        file
        for file in files
        if all(each.fits(name, file.tell(name)) for name, each in wanted.items())
    ]


def _explain_filter(name: str, wanted: _Filter, files: Sequence[BidsFile]) -> Problem:
    """Return that no image has what a filter wants, and what there is instead."""
    return Problem(
        "filters",
        "No image has {given}.  In {n}, {name} is: {values}.",
        given=wanted.given,
        n=count(len(files), "image"),
        name=name,
        values=show_counts(Counter(_show_label(name, file) for file in files)),
    )


def _explain_none(files: Sequence[BidsFile], folders: Sequence[Path]) -> Problem:
    counts = Counter(f"*_{file.suffix}{file.extension}" for file in files)
    return Problem(
        "bids",
        "No image with sub- in its name is in {folders}, but for masks and segmentations.  Found: "
        "{found}.  For images without names of BIDS, such as con_0001.nii or cope1.nii.gz, give "
        "{table} and {pattern}.",
        folders=join_some(folders),
        found=show_counts(counts) or "nothing with names of BIDS",
    )


def _show_label(name: str, file: BidsFile) -> str:
    label = file.tell(name)
    return "null" if label is None else label


def show_counts(counts: Mapping[str, int], most: int = 20) -> str:
    """Return how often each label comes, such as "T1w (20), T2w (19)"."""
    ordered = sorted(counts.items(), key=lambda item: natural_key(item[0]))
    return join_some((f"{label} ({n})" for label, n in ordered), most)


def _refuse_ambiguous(files: Sequence[BidsFile], wanted: Mapping[str, _Filter]) -> None:
    """Refuse images that differ in more than what tells observations apart."""
    names = dict.fromkeys((*PARTS, *ENTITIES, *(name for file in files for name in file.entities)))
    left = list(files)
    lines, settings = [], []
    for name in names:
        if name in VARYING or (name in wanted and wanted[name].may_vary):
            continue
        counts = Counter(_show_label(name, file) for file in left)
        if len(counts) > 1:
            lines.append(f"{name}: {show_counts(counts)}")
            # What else differs is said of the images that most likely are meant.
            most = min(counts, key=lambda label: (-counts[label], natural_key(label)))
            settings.append(f"{ENTITIES.get(name, name)}={most}")
            left = [file for file in left if _show_label(name, file) == most]
    if not lines:
        return
    raise InputError(
        Problem(
            "filters",
            "It is not clear which images are meant: {n} differ in {lines}.  Say which, as with "
            "{filters=given}.",
            n=count(len(files), "image"),
            lines="; then in ".join(lines),
            given="/".join(settings),
        )
    )


def _refuse_twins(files: Sequence[BidsFile], wanted: Mapping[str, _Filter]) -> None:
    """Refuse images that nothing but their folders tells apart."""
    names = [*VARYING, *(name for name in wanted if wanted[name].may_vary)]
    by_key: dict[tuple[str | None, ...], list[Path]] = defaultdict(list)
    for file in files:
        by_key[tuple(file.tell(name) for name in names)].append(file.path)
    twins = [" and ".join(map(str, paths)) for paths in by_key.values() if len(paths) > 1]
    if twins:
        raise InputError(
            Problem(
                "derivatives",
                "{n} observations have several images with the same names: {twins}.  Name one "
                "folder in {derivatives}.",
                n=len(twins),
                twins=join_some(twins, separator="; "),
            )
        )


def _leave_out_absent(
    files: Sequence[BidsFile], on_missing_image: str
) -> tuple[list[BidsFile], list[Excluded]]:
    """Return images with content, and those without, if they may be dropped."""
    kept, excluded = [], []
    for file in files:
        reason = _find_fault(file.path)
        if reason is None:
            kept.append(file)
        else:
            excluded.append(Excluded(_name_row(file, {}), str(file.path), reason))
    if excluded and (on_missing_image == "refuse" or not kept):
        advice = "" if not kept else ", or set {on_missing_image=drop} to leave them out"
        raise InputError(
            Problem(
                "on_missing_image",
                "{n} of {n_all} have no content: {some}.  Fetch them" + advice + ".",
                n=len(excluded),
                n_all=count(len(files), "image"),
                some=join_some((each.reason for each in excluded), separator="; "),
            )
        )
    return kept, excluded


def _find_fault(path: Path) -> str | None:
    try:
        is_empty = os.stat(path).st_size == 0  # noqa: PTH116  many times faster than objects
    except OSError:
        return explain_no_image(path)
    return f"{path}: an empty file" if is_empty else None


def _name_row(file: BidsFile, wanted: Mapping[str, _Filter]) -> str:
    """Return what messages call an observation, such as sub-07 ses-2."""
    names = [*VARYING, *(name for name in wanted if wanted[name].may_vary)]
    return " ".join(
        f"{ENTITIES.get(name, name)}-{file.entities[name]}"
        for name in dict.fromkeys(names)
        if name in file.entities
    )


def _make_frame(files: Sequence[BidsFile], rows: Sequence[str]) -> "pd.DataFrame":
    """Return a column for each entity, with its levels."""
    import pandas as pd

    found = {name for file in files for name in file.entities}
    names = [name for name in ENTITIES if name in found]
    names += sorted(found - ENTITIES.keys())
    columns = {}
    for name in names:
        labels = [file.entities.get(name) for file in files]
        levels = sorted({x for x in labels if x is not None}, key=natural_key)
        columns[name] = pd.Categorical(labels, categories=pd.Index(levels, dtype=object))
    frame = pd.DataFrame(columns, index=list(rows))
    frame.attrs = {"source": "the data set", "sources": {}, "levels": {}, "repeated": {}}
    return frame


def _find_masks(
    files: Sequence[BidsFile], everything: Sequence[BidsFile], rows: Sequence[str]
) -> tuple[list[ListedPath | None], list[str]]:
    """Return the brain mask of each image, None without exactly one."""
    by_subject: dict[str, list[BidsFile]] = defaultdict(list)
    for file in everything:
        if _is_brain_mask(file):
            by_subject[file.entities["subject"]].append(file)
    masks: list[ListedPath | None] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for file, row in zip(files, rows, strict=True):
        fits = _choose_masks(file, by_subject[file.entities["subject"]])
        masks.append(ListedPath(fits[0].path, row) if len(fits) == 1 else None)
        if len(fits) != 1:
            reasons["several" if fits else "no"].append(row)
    notices = [
        f"{count(len(some), 'image')} of {len(rows)} {'have' if len(some) > 1 else 'has'} {what} "
        f"brain mask{'s' * (what == 'several')} of the same subject and space, and "
        f"{'are' if len(some) > 1 else 'is'} taken without: {join_some(some)}."
        for what, some in reasons.items()
    ]
    return masks, notices


def _is_brain_mask(file: BidsFile) -> bool:
    is_brain = "brain" in (file.tell("description"), file.tell("label"))
    return (
        is_brain
        and file.suffix == "mask"
        and "subject" in file.entities
        and is_image_path(file.path)
    )


def _choose_masks(image: BidsFile, masks: Iterable[BidsFile]) -> list[BidsFile]:
    """Return the masks that agree in most entities, and contradict none."""

    def agrees(mask: BidsFile) -> bool:
        if "space" in image.entities and "space" not in mask.entities:
            return False
        is_anatomical = mask.datatype == "anat"
        if is_anatomical != (image.datatype == "anat"):
            return False
        shared = (mask.entities.keys() & image.entities.keys()) - _OF_MASKS
        return all(mask.entities[name] == image.entities[name] for name in shared)

    found = [mask for mask in masks if agrees(mask)]
    if not found:
        return []
    here = image.entities.keys()
    scores = [len(mask.entities.keys() & here) - len(mask.entities.keys() - here) for mask in found]
    return [mask for mask, n in zip(found, scores, strict=True) if n == max(scores)]


def _note_repeats(files: Sequence[BidsFile]) -> list[str]:
    """Return how many images a subject has, and which sessions some lack."""
    by_subject: dict[str, list[BidsFile]] = defaultdict(list)
    for file in files:
        by_subject[file.entities["subject"]].append(file)
    most = max(map(len, by_subject.values()))
    notices: list[str] = []
    if most > 1:
        n = sum(len(each) > 1 for each in by_subject.values())
        differ = [
            name
            for name in (*VARYING[1:], "contrast", "stat")
            if len({file.entities.get(name) for file in files}) > 1
        ]
        notices.append(
            f"{n} of {count(len(by_subject), 'subject')} {'has' if n == 1 else 'have'} up to "
            f"{most} images, which differ in {join_some(differ, separator=' and ')}."
        )
    for name in ("session", "task"):
        levels = {file.entities[name] for file in files if name in file.entities}
        lacking = [
            f"sub-{subject} ({join_some(sorted(gone, key=natural_key))})"
            for subject, each in by_subject.items()
            if (gone := levels - {file.entities.get(name) for file in each})
        ]
        if lacking and len(levels) > 1:
            notices.append(
                f"{count(len(lacking), 'subject')} of {len(by_subject)} "
                f"{'lacks' if len(lacking) == 1 else 'lack'} a {name}: {join_some(lacking)}."
            )
    return notices
