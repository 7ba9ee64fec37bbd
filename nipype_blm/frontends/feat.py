"""A group analysis of FSL's FEAT: the folder .gfeat, whose images and design are fitted again."""

import re
from pathlib import Path

from nipype_blm.data.kinds import find_map
from nipype_blm.errors import InputError, Problem, Problems
from nipype_blm.frontends.blm import WORDS, to_yaml
from nipype_blm.frontends.fields import check_fields
from nipype_blm.frontends.reading import make_request
from nipype_blm.io.tables import read_labels, read_text
from nipype_blm.model.request import Request

_DATA = "filtered_func_data"
_COPE = re.compile(r"cope(\d+)\.feat")
_VOXELWISE = re.compile(r"^set fmri\(evs_vox\) ([1-9]\d*)", re.MULTILINE)
_MOST_SHOWN = 20


def is_feat(folder: Path) -> bool:
    """Return whether a folder is one of FEAT, of a group or of one image series."""
    return folder.is_dir() and (
        (folder / "design.fsf").is_file() or folder.suffix in (".feat", ".gfeat")
    )


def read(folder: Path, out_dir: Path, cope: int | None = None) -> Request:
    """Read a group analysis of FEAT: design, contrasts, F tests, mask and images.

    The images are the volumes of ``copeN.feat/filtered_func_data``, one for each input of the
    analysis.  They are fitted by least squares: first-level variances have no part in it, and
    groups of variances are one.

    Parameters
    ----------
    folder : Path
        A .gfeat, or one of the copeN.feat in it.
    out_dir : Path
        Folder for the results; absolute.
    cope : int, optional
        Which copeN.feat, where there are several.

    Returns
    -------
    Request
        What is wrong with its files is in its `faults`; its `record` is a configuration of blm.

    Raises
    ------
    InputError
        If that is no group analysis, or not all of it, or it is not clear which cope is meant.
    """
    try:
        chosen = _find_cope(folder.absolute(), cope)
        _check_covariates(chosen)
        data = _find_files(chosen) | {"row_names": "none", "out_dir": out_dir}
    except InputError as error:
        error.reword(WORDS)
        raise
    fields, problems = check_fields(data, "blm", WORDS)
    return make_request(fields, WORDS, problems, _find_notices(chosen), to_yaml(fields))


def _find_files(cope: Path) -> dict[str, Path | None]:
    """Return the files of a cope by the fields that name them."""
    return {
        "images": _find_image(cope, _DATA, "the images of the group"),
        "X": _find_text(cope, "mat"),
        "contrasts": _find_text(cope, "con"),
        "f_contrasts": _find_text(cope, "fts", must_be=False),
        "analysis_mask": _find_image(cope, "mask", "the mask"),
    }


def _find_cope(folder: Path, number: int | None) -> Path:
    """Return the folder of one contrast of the level below."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected a group analysis of FEAT (.gfeat).")
    copes = {int(match[1]): p for p in folder.iterdir() if (match := _COPE.fullmatch(p.name))}
    if not copes and _COPE.fullmatch(folder.name):
        given = int(folder.name[4:-5])
        if number not in (None, given):
            raise InputError(f"{folder} is cope {given}, but cope {number} is asked for.")
        return folder
    if not copes:
        raise InputError(_explain_absence(folder))
    shown = ", ".join(map(str, sorted(copes)[:_MOST_SHOWN]))
    more = f" ... and {len(copes) - _MOST_SHOWN} more" * (len(copes) > _MOST_SHOWN)
    if number is None and len(copes) > 1:
        raise InputError(
            f"{folder} has copes {shown}{more}; choose one, as with --cope {min(copes)}."
        )
    chosen = min(copes) if number is None else number
    if chosen not in copes:
        raise InputError(f"{folder} has no cope{chosen}.feat; it has copes {shown}{more}.")
    return copes[chosen]


def _explain_absence(folder: Path) -> Problem:
    """Return why there is no cope, and what to give."""
    if folder.suffix == ".feat" or any((folder / "stats").glob("cope*")):
        template = (
            "{folder} is FEAT's analysis of one image series, not of a group; give the .gfeat of "
            "the group, or a configuration whose {images} lists a cope of each, such as "
            "{folder}/reg_standard/stats/cope1.nii.gz."
        )
    else:
        template = (
            "{folder} has no cope1.feat or the like, as a group analysis of FEAT (.gfeat) has "
            "that has ended; give one that has."
        )
    return Problem("images", template, folder=folder)


def _find_image(cope: Path, name: str, what: str) -> Path:
    """Return an image of a cope, or of the group."""
    for folder in (cope, cope.parent):
        found = find_map(folder, name) or _find_pair(folder, name)
        if found is not None:
            return found
    template = (
        "{cope} has no {name}.nii.gz, {what}; it may have been removed to save space. Run FEAT "
        "again, or list the copes of the level below in {images} of a configuration, whose {X} is "
        "design.mat."
    )
    raise InputError(Problem("images", template, cope=cope, name=name, what=what))


def _find_pair(folder: Path, name: str) -> Path | None:
    """Return an image of two files, as FSL writes with NIFTI_PAIR."""
    found = (folder / f"{name}{end}" for end in (".img", ".img.gz"))
    return next((path for path in found if path.is_file()), None)


def _find_text(cope: Path, end: str, must_be: bool = True) -> Path | None:
    """Return a file of the design: that of the cope, or that of the group."""
    for folder in (cope, cope.parent):
        if (path := folder / f"design.{end}").is_file():
            return path
    if must_be:
        raise InputError(
            f"Neither {cope} nor {cope.parent} has a design.{end}, so that only a part of the "
            "analysis is there; copy all of it."
        )
    return None


def _check_covariates(cope: Path) -> None:
    """Refuse regressors with a value for each voxel, in whose place design.mat has one number."""
    path = _find_text(cope, "fsf", must_be=False)
    found = _VOXELWISE.search(read_text(path, "The design")) if path is not None else None
    if found is not None:
        raise InputError(
            f"{path} has {found[1]} regressors with images of their own (fmri(evs_vox)); every "
            "voxel has the same X here, so that this analysis cannot be fitted."
        )


def _find_notices(cope: Path) -> list[str]:
    """Return what FEAT may have done and this does not."""
    notices = []
    if find_map(cope, f"var_{_DATA}") is not None:
        notices.append(
            f"The variances of the level below (var_{_DATA}) are not used: every image counts the "
            "same, as with OLS in FEAT."
        )
    groups = _find_text(cope, "grp", must_be=False)
    if groups is not None:
        labels = Problems().attempt(read_labels, groups, "Groups")
        n_groups = len(set(labels or ()))
        if n_groups > 1:
            notices.append(
                f"{groups} has {n_groups} groups, each with a variance in FEAT; here one variance "
                "is estimated for all."
            )
    return notices
