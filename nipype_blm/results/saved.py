"""The model as fitted, beside its maps: written as text that anyone can read, and read back.

`FILE` describes every other file and column in words, and has a fingerprint of each, so that a
folder of which a part is missing, damaged or edited is never taken for the model.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import FloatArray
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import open_input
from nipype_blm.io.publish import is_unfinished, list_published
from nipype_blm.model.study import Coding, Excluded, Study

FOLDER = "model"
FILE = "model.json"
FORMAT = 1  # to be raised when a reader of an earlier version could not read it

_TABLES = {
    "X.tsv": "The design matrix X: one row for each image, in the order of images.tsv. Numbers are "
    "printed with all their digits, so that they read back exactly.",
    "images.tsv": "The images, in the order in which they were read; every table with one row for "
    "each image has this order.",
    "contrasts.tsv": "The contrasts: one row for a T contrast, several for an F contrast.",
}
_TABLE = "table.tsv"
_TABLES_OF_FORMULAS = {
    _TABLE: "The table of which the formula made X and the random factors: one row for each image.",
}
EXCLUDED = "excluded.tsv"  # beside the maps
_IMAGES = {
    "image": "Path of the image when the model was fitted; it may have moved since.",
    "volume": "Number of the volume in the image, from 0.",
    "size": "Bytes of the file then.",
    "mtime_ns": "Time of its last modification then: nanoseconds since 1970, UTC.",
    "mask": "Path of the mask of the data of this image; empty without one.",
    "mask_volume": "Number of the volume in the mask, from 0.",
    "mask_size": "Bytes of the mask then.",
    "mask_mtime_ns": "Time of the last modification of the mask then.",
    "listed": "Place of the image among those that were given, from 1; 0 where it is not known.",
}
_CONTRASTS = {
    "name": "Name of the contrast, as it was given.",
    "label": "Its label in the names of files: contrasts/contrast-LABEL_...",
    "test": "T or F.",
    "row": "Row of the contrast, from 1.",
}
_LEVELS = {
    "level": "Number of the level of the image, from 0.",
    "label": "Label of the level; of a nested level: label of the outer level / own label.",
}
_OPTIONS = {
    "minimum_n": "Fewest images with data at a voxel that is fitted.",
    "threshold": "Values below it are missing; null: no such threshold.",
    "zero_is_missing": "Whether values of exactly 0 are missing.",
    "deficient": "What was asked for if columns of X depend on each other: refuse the model, or "
    "test what is estimable.",
    "reml": "Whether the restricted likelihood was maximised.",
    "method": "How the likelihood was maximised.",
    "tol": "Gain in log-likelihood below which iterations end.",
    "maxnit": "Most evaluations of the likelihood from one starting value.",
    "safe_mode": "Whether voxels with no more images than random effects are left out.",
    "n_starts": "Starting values tried at a voxel; null: chosen by the program.",
    "two_sided": "Whether p of T contrasts is two-sided.",
    "minlog": "What an infinite -log10 p becomes, or minus this.",
    "numerics": "Raised by a version of the program that gives other estimates of the same input.",
}


class SavedImage(NamedTuple):
    """One image as it was when it was read, and the mask of its data."""

    image: str
    volume: int
    size: int  # bytes
    mtime_ns: int
    mask: str | None = None
    mask_volume: int = 0
    mask_size: int = 0
    mask_mtime_ns: int = 0
    listed: int = 0  # place among the images that were given, from 1; 0: not known


class SavedContrast(NamedTuple):
    """What was tested."""

    name: str
    label: str  # in names of files
    is_f: bool
    matrix: FloatArray  # (q, n_params), the weights


@dataclass(frozen=True)
class FittedModel:
    """A model as fitted: what its maps depend on, but for the values of the images.

    Rows are in the order in which the images were read.
    """

    model: str  # blm or blmm
    X: FloatArray  # (n_obs, n_params)
    column_names: Sequence[str]
    contrasts: Sequence[SavedContrast]
    images: Sequence[SavedImage]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    factors: Sequence[RandomFactor] = ()
    effect_names: Sequence[Sequence[str]] = ()  # of each factor
    level_names: Sequence[Sequence[str]] = ()  # of each factor, in the order of its levels
    notices: Sequence[str] = ()  # what the user should know of the result
    study: Study | None = None  # what a formula made X and the factors of


class _Lines(list[str]):
    """Lines that end as on Unix; the writer quotes cells with ends of lines of either kind."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


class _Table(NamedTuple):
    words: str
    columns: list[tuple[str, str]]  # name and description; two may have one name
    rows: list[list[Any]]

    def format(self) -> bytes:
        lines = _Lines()
        writer = csv.writer(lines, delimiter="\t")  # repr of floats
        writer.writerow([name for name, _ in self.columns])
        writer.writerows(self.rows)
        return "".join(lines).encode("utf-8", "surrogateescape")

    def describe(self, content: bytes) -> dict[str, Any]:
        columns = [{"Name": name, "Description": words} for name, words in self.columns]
        stamp = {"Bytes": len(content), "Fingerprint": fingerprint(content)}
        return {"Description": self.words, "Columns": columns} | stamp


def pack_fitted(model: FittedModel) -> dict[str, bytes]:
    """Return the files of a model, by their names in its folder."""
    tables = {
        "X.tsv": _Table(_TABLES["X.tsv"], _describe_columns(model), model.X.tolist()),
        "images.tsv": _Table(
            _TABLES["images.tsv"], list(_IMAGES.items()), [list(each) for each in model.images]
        ),
        "contrasts.tsv": _tabulate_contrasts(model),
    } | {_name_factor(k): _tabulate_factor(model, k) for k in range(len(model.factors))}
    if model.study is not None:
        tables[_TABLE] = _tabulate_study(model.study)
    contents = {name: table.format() for name, table in tables.items()}
    data = {
        "Description": "The model whose maps are in the folder above, as it was fitted. The other "
        "files here are tables: tab-separated text in UTF-8, with a first line of names.",
        "Format": FORMAT,
        "Model": model.model,
        "Factors": [
            {
                "Name": factor.name,
                "File": _name_factor(k),
                "Effects": list(model.effect_names[k]),
                "Correlated": factor.correlated,
                "Description": "A random factor. Correlated: whether the effects of a level may be "
                "correlated.",
            }
            for k, factor in enumerate(model.factors)
        ],
        **({} if model.study is None else {"Study": _describe_study(model.study)}),
        "Options": {
            name: {"Value": value, "Description": _OPTIONS[name]}
            for name, value in model.options.items()
        },
        "Notices": list(model.notices),
        "Versions": dict(model.versions),
        "Files": {name: table.describe(contents[name]) for name, table in tables.items()},
    }
    return contents | {FILE: _dump(data | {"Fingerprint": fingerprint(_dump(data))})}


def _dump(data: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(data, indent=1)}\n".encode()


def _name_factor(number: int) -> str:
    return f"factor-{number + 1}.tsv"


def _describe_columns(model: FittedModel) -> list[tuple[str, str]]:
    return [(name, f"Column {i} of X.") for i, name in enumerate(model.column_names, 1)]


def _tabulate_contrasts(model: FittedModel) -> _Table:
    weights = [(name, "Weight of this column of X.") for name in model.column_names]
    rows = [
        [each.name, each.label, "F" if each.is_f else "T", number, *row]
        for each in model.contrasts
        for number, row in enumerate(each.matrix.tolist(), 1)
    ]
    return _Table(_TABLES["contrasts.tsv"], [*_CONTRASTS.items(), *weights], rows)


def _tabulate_factor(model: FittedModel, number: int) -> _Table:
    factor, labels = model.factors[number], model.level_names[number]
    words = f"The random factor {factor.name}: the level of each image, and the design Z of its "
    effects = [(name, "A random effect of a level.") for name in model.effect_names[number]]
    rows = [
        [level, labels[level], *row]
        for level, row in zip(factor.level.tolist(), factor.Z.tolist(), strict=True)
    ]
    return _Table(f"{words}effects.", [*_LEVELS.items(), *effects], rows)


def _tabulate_study(study: Study) -> _Table:
    columns = [(name, "A column of the table.") for name in study.columns]
    cells = [map(_write_cell, column) for column in study.columns.values()]
    rows = [list(row) for row in zip(*cells, strict=True)]
    return _Table(_TABLES_OF_FORMULAS[_TABLE], columns, rows)


def _write_cell(value: str | float) -> str | float:
    """Return what is missing, NaN, as BIDS writes it."""
    return "n/a" if value != value or value is None else value


def _describe_study(study: Study) -> dict[str, Any]:
    return {
        "Description": "What X was made of: Formula and table; Codings: how categorical columns "
        "were written as numbers; Excluded: rows and images that are not in the model.",
        "Formula": study.formula,
        "Numeric": [
            name
            for name, cells in study.columns.items()
            if all(isinstance(cell, float) for cell in cells)
        ],
        "Codings": [each._asdict() for each in study.codings],
        "Excluded": [each._asdict() for each in study.excluded],
    }


def pack_excluded(excluded: Iterable[Excluded]) -> bytes:
    """Return the table of what was left out, and why."""
    rows = [[each.row, each.image or "n/a", each.reason] for each in excluded]
    return _Table("", [(name, "") for name in Excluded._fields], rows).format()


def is_model_file(name: str) -> bool:
    """Return whether a file, relative to the output folder, could be one of a saved model."""
    folder, _, file = name.partition("/")
    number = file.removeprefix("factor-").removesuffix(".tsv")
    is_factor = number.isdecimal() and file == f"factor-{number}.tsv"
    return folder == FOLDER and (file in {*_TABLES, *_TABLES_OF_FORMULAS, FILE} or is_factor)


def has_model(folder: Path) -> bool:
    """Return whether a folder has a saved model, or a link to one still to be fetched."""
    return os.path.lexists(folder / FOLDER / FILE)


def find_foreign(folder: Path) -> list[Path]:
    """Return what no run has written, and a saved model in this folder would replace."""
    place = folder / FOLDER
    ours = list_published(folder)
    names = {EXCLUDED} if os.path.lexists(folder / EXCLUDED) else set()
    if not place.is_dir():
        found = [folder / name for name in names - ours]
        return [*found, place] if os.path.lexists(place) else found
    names |= {f"{FOLDER}/{path.name}" for path in place.iterdir()}
    with suppress(OSError, ValueError, TypeError, RecursionError):  # a run whose record is lost
        ours |= names if "Fingerprint" in json.loads((place / FILE).read_bytes()) else set()
    foreign = sorted(names - ours)
    return [folder / name for name in foreign if is_model_file(name) or name == EXCLUDED]


def _read_numbers(rows: Sequence[Sequence[str]], n_columns: int) -> FloatArray:
    """Return cells as numbers; much quicker than NumPy, which makes an array of texts first."""
    numbers = [float(cell) for row in rows for cell in row]
    return np.array(numbers, float).reshape(len(rows), n_columns)


def _read_cell(cell: str) -> float:
    return math.nan if cell == "n/a" else float(cell)


class SavedModel:
    """The model of a folder of results; tables are read, and checked, when they are asked for.

    Parameters
    ----------
    folder : path
        The outdir of a run of ``blm`` or ``blmm``; wherever it is now, and if it is read-only.

    Raises
    ------
    InputError
        If the folder has no model, or not all of it, or another one than the run wrote; also
        later, if a table is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise InputError(
                f"{self.folder} is not a folder; expected the outdir of a run of blm or blmm."
            )
        if is_unfinished(self.folder):
            raise InputError(
                f"{self.folder} has results of two runs: one is replacing those of another, or was "
                "interrupted while it did that. Wait until it has ended, or run it again."
            )
        if not has_model(self.folder):
            raise InputError(self._describe_absence())
        published = list_published(self.folder)
        if published and f"{FOLDER}/{FILE}" not in published:
            raise InputError(
                f"{self.folder / FOLDER} is not the model of the maps beside it, which an earlier "
                "version of nipype_blm has replaced without it; run it again with this version."
            )
        self._data = self._read_description()
        self.model: str = self._data["Model"]
        self.options: dict[str, Any] = {
            name: each["Value"] for name, each in self._data["Options"].items()
        }
        self.versions: dict[str, str] = self._data["Versions"]
        self.notices: list[str] = self._data["Notices"]
        self.effect_names = tuple(tuple(each["Effects"]) for each in self._data["Factors"])
        self._check_presence()

    def _describe_absence(self) -> str:
        names = sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))
        maps = [name for name in names if "_vox_" in name]
        shown = (maps or names)[:1]
        more = len(names) - len(shown)
        found = f"It has {shown[0]}{f' and {more} more' * bool(more)}" if shown else "It is"
        reason = ", as of an earlier version, or of a copy that is not complete" if maps else ""
        inputs = self.folder / "inputs.yml"
        again = f" Run it again, as from {inputs}." if inputs.is_file() else " Run it again."
        return (
            f"{self.folder} has no {FOLDER}/{FILE}; expected the outdir of a run of blm or blmm, "
            f"which writes the model beside its maps. {found}{'' if shown else ' empty'}{reason}."
            f"{again if maps or inputs.is_file() else ''}"
        )

    def _read_description(self) -> dict[str, Any]:
        path = self.folder / FOLDER / FILE
        with open_input(path) as file:
            content = file.read()
        try:
            data: dict[str, Any] = json.loads(content)
            stamp = data.pop("Fingerprint")
            version, written_by = int(data["Format"]), data["Versions"].get("nipype_blm")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(path) from error
        if version > FORMAT:
            raise InputError(
                f"{path} was written by nipype_blm {written_by}, in a form that this version does "
                "not know; update nipype_blm."
            )
        if stamp != fingerprint(_dump(data)):
            raise self._damaged(path)
        self.stamp: str = stamp  # fingerprint of the model as fitted, with its images
        return data

    def _check_presence(self) -> None:
        """Refuse a copy without some of the tables, before anything is read of it."""
        folder = self.folder / FOLDER
        # A link whose content is still to be fetched is there; reading it says how.
        missing = [name for name in self._data["Files"] if not os.path.lexists(folder / name)]
        if missing:
            raise InputError(
                f"{folder} has no {' and no '.join(missing)}, so that only a part of it was "
                f"copied; copy all of {self.folder}, or run it again."
            )
        for name, described in self._data["Files"].items():
            path = folder / name
            if path.exists() and path.stat().st_size != described["Bytes"]:
                raise self._damaged(path)

    def _damaged(self, path: Path) -> InputError:
        return InputError(
            f"{path} is not as the run wrote it: damaged, cut off or edited; copy all of "
            f"{self.folder} again, or run it again."
        )

    def _read_table(self, name: str) -> tuple[list[str], list[list[str]]]:
        """Return the names of the columns, and the rows."""
        path = self.folder / FOLDER / name
        with open_input(path) as file:
            content = file.read()
        if fingerprint(content) != self._data["Files"][name]["Fingerprint"]:
            raise self._damaged(path)
        text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
        header, *rows = csv.reader(text, delimiter="\t")
        return header, rows

    @cached_property
    def _design(self) -> tuple[tuple[str, ...], FloatArray]:
        names, rows = self._read_table("X.tsv")
        return tuple(names), _read_numbers(rows, len(names))

    @property
    def X(self) -> FloatArray:
        """The design matrix, of shape (n_obs, n_params)."""
        return self._design[1]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns of X."""
        return self._design[0]

    @cached_property
    def images(self) -> tuple[SavedImage, ...]:
        """The images, one for each row of X, as they were when they were read."""
        _, rows = self._read_table("images.tsv")
        return tuple(
            SavedImage(image, int(volume), int(size), int(time), mask or None, *map(int, rest))
            for image, volume, size, time, mask, *rest in rows
        )

    @cached_property
    def saved_contrasts(self) -> tuple[SavedContrast, ...]:
        """The contrasts, in their order."""
        _, rows = self._read_table("contrasts.tsv")
        found: dict[str, SavedContrast] = {}
        for name, label, test, _, *weights in rows:
            row = _read_numbers([weights], len(weights))
            before = found[name].matrix if name in found else row[:0]
            found[name] = SavedContrast(name, label, test == "F", np.concatenate([before, row]))
        return tuple(found.values())

    @cached_property
    def _factors(self) -> list[tuple[RandomFactor, tuple[str, ...]]]:
        return [self._read_factor(each) for each in self._data["Factors"]]

    def _read_factor(self, described: Mapping[str, Any]) -> tuple[RandomFactor, tuple[str, ...]]:
        header, rows = self._read_table(described["File"])
        labels = {int(row[0]): row[1] for row in rows}
        level = np.array([row[0] for row in rows], np.int32)
        Z = _read_numbers([row[2:] for row in rows], len(header) - 2)
        factor = RandomFactor(described["Name"], level, Z, described["Correlated"])
        return factor, tuple(labels[i] for i in range(factor.n_levels))

    @property
    def factors(self) -> tuple[RandomFactor, ...]:
        """The random factors; none of a linear model."""
        return tuple(factor for factor, _ in self._factors)

    @property
    def level_names(self) -> tuple[tuple[str, ...], ...]:
        """The labels of the levels of each factor, in the order of their numbers."""
        return tuple(labels for _, labels in self._factors)

    @cached_property
    def study(self) -> Study | None:
        """The formula, its table, the coding of categorical columns, and what was left out.

        None of a model whose X was given.
        """
        described = self._data.get("Study")
        if described is None:
            return None
        header, rows = self._read_table(_TABLE)
        columns: dict[str, list[str | float]] = {}
        for name, cells in zip(header, zip(*rows, strict=True), strict=True):
            is_numeric = name in described["Numeric"]
            columns[name] = [_read_cell(cell) for cell in cells] if is_numeric else list(cells)
        return Study(
            described["Formula"],
            columns,
            [Coding(**each) for each in described["Codings"]],
            [Excluded(**each) for each in described["Excluded"]],
        )

    @property
    def criterion(self) -> str | None:
        """What was maximised; None without random effects, where one follows from the other."""
        if self.model == "blm":
            return None
        return "REML" if self.options["reml"] else "ML"
