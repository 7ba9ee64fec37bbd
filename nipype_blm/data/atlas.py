"""Names of the places of an atlas: an image of labels, and a table of their names."""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nipype_blm.data.headers import read_header
from nipype_blm.data.libraries import explaining
from nipype_blm.data.volumes import VolumeSpace
from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.frames import read_frame
from nipype_blm.io.tables import read_text

_LARGEST = 2**31 - 1
_NUMBERED = re.compile(r"\s*(\d+)[\s,;]+(\S.*?)\s*")
# Colours, opacities and the like, before the name (ITK-SNAP, FSLeyes) or behind it (FreeSurfer);
# a name may begin or end with digits itself.
_COLOURS = re.compile(r"^([\d.]+\s+){3,6}(?=\"|\S*[^\d\s.])|(\s+\d+){4,5}$")


class Atlas(NamedTuple):
    """Which label each place has; 0 is none."""

    labels: NDArray[np.int32]  # (x, y, z)
    to_voxels: NDArray[np.float64]  # (4, 4), of mm
    names: dict[int, str]

    def name(self, label: int) -> str:
        """Return what a label is called: its number if the table lacks it, nothing for 0."""
        return self.names.get(label, str(label) if label else "")

    def find_names(self, coordinates: ArrayLike) -> list[str]:
        """Return the name at each place, that of the nearest voxel; "" outside.

        Parameters
        ----------
        coordinates : array of shape (n, 3)
            In mm, in the space of the atlas.
        """
        return [self.name(label) for label in self.find_labels(coordinates).tolist()]

    def find_labels(self, coordinates: ArrayLike) -> NDArray[np.int32]:
        """Return the label at each place, that of the nearest voxel; 0 outside."""
        places = np.asarray(coordinates, np.float64).reshape(-1, 3)
        voxels = places @ self.to_voxels[:3, :3].T + self.to_voxels[:3, 3]
        nearest = np.floor(voxels + 0.5)
        is_inside = ((nearest >= 0) & (nearest < self.labels.shape)).all(axis=1)
        labels = np.zeros(len(places), np.int32)
        labels[is_inside] = self.labels[tuple(nearest[is_inside].astype(int).T)]
        return labels


def read_atlas(path: Path, names: Path | None = None, field: str = "atlas") -> Atlas:
    """Read an image of labels, on any grid, and the names of its labels.

    Parameters
    ----------
    path : Path
        An image of whole numbers, one volume.
    names : Path, optional
        As of `read_names`.  Without them, labels are called by their numbers.
    field : str
        What messages call the image.

    Raises
    ------
    InputError
        If one of them cannot be read or is something else.
    """
    header = read_header(path)
    if header.n_volumes > 1:
        raise InputError(
            f"{field} {path} has {header.n_volumes} volumes, expected one of labels.  Of an atlas "
            "of probabilities take the image of the most probable label."
        )
    with explaining(path):
        to_voxels = np.asarray(np.linalg.inv(header.affine), np.float64)
    labels = _read_labels(path, field).reshape(header.shape, order="F")
    if names is None:
        return Atlas(labels, to_voxels, {})
    what = f"names of {field}"
    known = read_names(names, what)
    here = set(np.unique(labels).tolist()) - {0}
    if not here & known.keys():
        raise InputError(
            f"{what} {names} has none of the labels of {path}: it names "
            f"{join_some(sorted(known), 5)}, and the image has {join_some(sorted(here), 5)}."
        )
    return Atlas(labels, to_voxels, known)


def _read_labels(path: Path, field: str) -> NDArray[np.int32]:
    space = VolumeSpace.of_file(path)
    values = np.empty(space.n_features)
    space.make_reader().read(path, 0, values)
    values[np.isnan(values)] = 0
    is_label = (values == np.rint(values)) & (np.abs(values) <= _LARGEST)
    if not is_label.all():
        found = values[~is_label][0]
        raise InputError(
            f"{field} {path} is no image of labels: it has the value {found:g}, expected whole "
            "numbers.  Resample labels by the nearest voxel."
        )
    if not values.any():
        raise InputError(f"{field} {path} has no label: all its values are 0.")
    return values.astype(np.int32)


def read_names(path: Path, what: str) -> dict[int, str]:
    """Return the names of labels.

    Parameters
    ----------
    path : Path
        A table with the columns "index" and "name" (as dseg.tsv of BIDS); lines of a number and a
        name, with or without colours (of FreeSurfer, FSLeyes, ITK-SNAP, AAL); or XML of FSL or SPM.
    what : str
        What messages call it.

    Raises
    ------
    InputError
        If it is none of these, or gives a label two names.
    """
    read = _read_xml if path.suffix.lower() == ".xml" else _read_text
    pairs = read(path, what)
    names: dict[int, str] = {}
    for text, name in pairs:
        label = _to_label(text, f"{what} {path}")
        if names.setdefault(label, name) != name:
            raise InputError(
                f"{what} {path} gives label {label} two names, {show(names[label])} and "
                f"{show(name)}."
            )
    return names


def _read_text(path: Path, what: str) -> list[tuple[str, str]]:
    try:
        return _read_table(path, what)
    except InputError:
        found = _read_lines(path, what)
        if found is None:
            raise
        return found


def _read_lines(path: Path, what: str) -> list[tuple[str, str]] | None:
    """Return numbers and names of lines without a header; None if some line is another."""
    lines = [line for line in read_text(path, what).splitlines() if line.strip()]
    matches = [_NUMBERED.fullmatch(line) for line in lines if not line.startswith("#")]
    found = [(each[1], _COLOURS.sub("", each[2]).strip(' \t"')) for each in matches if each]
    return found if found and all(matches) else None


def _read_table(path: Path, what: str) -> list[tuple[str, str]]:
    frame = read_frame(path, what)
    columns = {str(column).strip().lower(): column for column in frame.columns}
    missing = [column for column in ("index", "name") if column not in columns]
    if missing:
        raise InputError(
            f"{what} {path} has no column {join_some(missing)}; it has {join_some(frame.columns)}."
            "  Expected are index, the number in the image, and name."
        )
    return list(zip(frame[columns["index"]], frame[columns["name"]], strict=True))


def _read_xml(path: Path, what: str) -> list[tuple[str, str]]:
    try:
        atlas = ElementTree.fromstring(read_text(path, what))
    except ElementTree.ParseError as error:
        raise InputError(f"{what} {path} is no XML: {error}.") from error
    # FSL has <label index="1">name</label>, SPM <label><index>1</index><name>name</name></label>.
    found = [
        (
            label.get("index", label.findtext("index", "")),
            label.findtext("name", label.text or "").strip(),
        )
        for label in atlas.iter("label")
    ]
    if not found:
        raise InputError(f"{what} {path} has no <label>, which an atlas of FSL or SPM has.")
    # FSL counts volumes of probabilities from 0; their image of labels has 0 where there is none.
    kind = (atlas.findtext("header/type") or "").strip().lower()
    first = 1 if kind == "probabilistic" else 0
    source = f"{what} {path}"
    return [(str(_to_label(index, source) + first), name) for index, name in found]


def _to_label(text: str, source: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if number != np.rint(number) or abs(number) > _LARGEST:
        raise InputError(f"{source} has the index {show(text)}, expected a whole number.")
    return int(number)
