"""A group analysis of FSL's FEAT: the folder .gfeat, whose images and design are fitted again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError, Problem, Problems, join_some
from nipype_blm.frontends.blm import WORDS, to_yaml
from nipype_blm.frontends.fields import check_fields
from nipype_blm.frontends.reading import Origin
from nipype_blm.frontends.requests import make_request
from nipype_blm.io.tables import read_labels, read_text
from nipype_blm.model.request import Request

_DATA = "filtered_func_data"
_COPE = re.compile(r"cope(\d+)\.feat")
_ENDINGS = (".nii.gz", ".nii", ".img", ".img.gz", "")
_INPUT = re.compile(r'^set feat_files\((\d+)\) "(.*)"', re.MULTILINE)
_LEFT_OUT = re.compile(r"^set fmri\(copeinput\.\d+\) 0", re.MULTILINE)
_VOXELWISE = re.compile(r"^set fmri\(evs_vox\) ([1-9]\d*)", re.MULTILINE)


def read(folder: Path, out_dir: Path, cope: int | None = None) -> Request:
    """Read a group analysis of FEAT: design, contrasts, F tests, mask and images.

    The images are the volumes of ``copeN.feat/filtered_func_data``, one for each input of the
    analysis; if that has been removed, the copes that design.fsf names.  They are fitted by
    least squares: first-level variances have no part in it, and groups of variances are one.

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
        text = _read_setup(chosen)
        _check_covariates(chosen, text)
        data = _find_files(chosen, text) | {"row_names": "none", "out_dir": out_dir}
    except InputError as error:
        error.reword(WORDS)
        raise
    fields, problems = check_fields(data, "blm", WORDS)
    notices = _find_notices(chosen, data)
    return make_request(fields, Origin("blm", WORDS, problems, notices, to_yaml(fields)))


def _find_files(cope: Path, setup: str) -> dict[str, Any]:
    """Return the files of a cope by the fields that name them."""
    return {
        "images": _find_image(cope, _DATA) or _find_inputs(cope, setup),
        "X": _find_text(cope, "mat"),
        "contrasts": _find_text(cope, "con"),
        "f_contrasts": _find_text(cope, "fts", must_be=False),
        "analysis_mask": _find_image(cope, "mask"),
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
    known = join_some(sorted(copes))
    if number is None and len(copes) > 1:
        raise InputError(f"{folder} has copes {known}; choose one, as with --cope {min(copes)}.")
    chosen = min(copes) if number is None else number
    if chosen not in copes:
        raise InputError(f"{folder} has no cope{chosen}.feat; it has copes {known}.")
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


def _find_image(cope: Path, name: str) -> Path | None:
    """Return an image of a cope, or of the group."""
    found = (_find_any(folder / name) for folder in (cope, cope.parent))
    return next((path for path in found if path is not None), None)


def _find_any(path: Path) -> Path | None:
    """Return the file of an image that is named without its ending, or with it."""
    found = (path.with_name(f"{path.name}{end}") for end in _ENDINGS)
    return next((each for each in found if each.is_file()), None)


def _find_inputs(cope: Path, setup: str) -> tuple[Path, ...]:
    """Return the copes of the level below, in the order of the design, as design.fsf names them.

    Raises
    ------
    InputError
        If they are not there, or not known.
    """
    given = {int(number): Path(path) for number, path in _INPUT.findall(setup)}
    # Of copes that were left out nobody knows whether they count.
    is_known = bool(given) and not _LEFT_OUT.search(setup)
    inputs = [_find_input(given[i], cope.name[:-5]) for i in sorted(given)] if is_known else []
    missing = [str(given[i]) for i, path in zip(sorted(given), inputs, strict=False) if not path]
    found = tuple(path for path in inputs if path is not None)
    if found and not missing:
        return found
    template = (
        "{cope} has no {data}.nii.gz, the images of the group, which may have been removed to save "
        "space{reason}. Run FEAT again, or list the copes of the level below in {images} of a "
        "configuration, whose {X} is design.mat."
    )
    reason = f"; nor has {missing[0]}, that design.fsf names, a cope of its own" if missing else ""
    raise InputError(Problem("images", template, cope=cope, data=_DATA, reason=reason))


def _find_input(given: Path, name: str) -> Path | None:
    """Return the cope of an input: the image itself, or that of a folder of the level below."""
    if not given.is_dir():
        return _find_any(given)
    standard = _find_any(given / "reg_standard" / "stats" / name)
    # Copes of one image series are in a space of their own, those of a group are not.
    is_of_group = given.parent.suffix == ".gfeat"
    return _find_any(given / "stats" / "cope1") if is_of_group and not standard else standard


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


def _read_setup(cope: Path) -> str:
    """Return what was set up for FEAT; "" if that is not there."""
    path = _find_text(cope, "fsf", must_be=False)
    return "" if path is None else read_text(path, "The design")


def _check_covariates(cope: Path, setup: str) -> None:
    """Refuse regressors with a value for each voxel, in whose place design.mat has one number."""
    found = _VOXELWISE.search(setup)
    if found is not None:
        raise InputError(
            f"The design.fsf of {cope} has {found[1]} regressors with images of their own "
            "(fmri(evs_vox)); every voxel has the same X here, so that this analysis cannot be "
            "fitted."
        )


def _find_notices(cope: Path, data: Mapping[str, Any]) -> list[str]:
    """Return what FEAT may have done and this does not, and what is read in the place of what."""
    notices = []
    if isinstance(data["images"], tuple):
        notices.append(
            f"{cope} has no {_DATA}; read are the {len(data['images'])} copes that its design.fsf "
            "names."
        )
    if data["analysis_mask"] is None:
        notices.append(f"{cope} has no mask; every voxel with enough images is analysed.")
    if _find_any(cope / f"var_{_DATA}") is not None:
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
