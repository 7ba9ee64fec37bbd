"""Results in the names and formats of others: which files there are, and how they are written."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nipype_blm import __version__
from nipype_blm.core.linalg import FloatArray
from nipype_blm.data.kinds import name_map
from nipype_blm.data.maps import MapInfo
from nipype_blm.errors import InputError, join_some, show
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.publish import Claim, list_published, publish
from nipype_blm.private import find_obstacle
from nipype_blm.results.maps import fits_single
from nipype_blm.results.results import ContrastResults, Results

_HIDDEN = ".nipype_blm"  # with which the names of our own records begin


class ExportedKind(NamedTuple):
    """One kind of map in an export: a line of the table of its target."""

    file: str  # below the folder, without extension; in braces are the fields of `make_pattern`
    of: str  # T, F or any: contrasts; column (of X); or run
    kind: str  # map of a contrast, or of the run, as `Results` calls it
    intent: str = "none"  # as nibabel calls it
    output: str = ""  # of the interface
    words: str = ""


@dataclass(frozen=True, eq=False)
class ExportedMap:
    """One map to be written, from a map that is there."""

    info: MapInfo
    source: Path
    read: Callable[[], Sequence[FloatArray]]  # its volumes, at the voxels of the result
    dtype: np.dtype[Any]
    output: str = ""
    outside: float = 0  # at voxels that are not in the result

    def convert(self) -> list[NDArray[Any]]:
        """Return the volumes in the type of the file."""
        volumes = self.read()
        if self.dtype == np.float32:
            has_units = self.info.intent == "estimate"
            known = (np.where(np.isnan(values), 0, values) for values in volumes)
            if not all(fits_single(values, has_units) for values in known):
                raise InputError(
                    f"{self.source} does not fit into single precision, in which exports are; "
                    "multiply the images by a number that brings their values near 1, and run "
                    "the model again."
                )
        return [values.astype(self.dtype) for values in volumes]


class Exported(NamedTuple):
    """What an export has written."""

    out_dir: Path
    outputs: dict[str, list[Path]]  # by the names of outputs of interfaces
    files: dict[str, Path]  # other files, by their names below the folder


def list_volumes(owner: Results | ContrastResults, kind: str) -> list[str]:
    """Return the labels of the volumes of a map; none of a map of one volume without a label."""
    return list(owner.describe(kind).get("Volumes", []))


def read_volumes(owner: Results | ContrastResults, kind: str) -> list[FloatArray]:
    """Return the volumes of a map at the voxels of the result."""
    numbers = range(len(list_volumes(owner, kind)))
    return [owner.vector(kind, i) for i in numbers] or [owner.vector(kind)]


def select_contrasts(results: Results, names: Sequence[str] | None) -> list[ContrastResults]:
    """Return contrasts in their order: all, or those named.

    Raises
    ------
    InputError
        If a name is not that of a contrast.
    """
    known = results.contrasts
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise InputError(
            f"{join_some(map(show, unknown))} is no contrast of {results.folder}; it has "
            f"{', '.join(known)}."
        )
    return [each for name, each in known.items() if names is None or name in names]


def publish_export(
    results: Results,
    out_dir: Path,
    target: str,
    maps: Sequence[ExportedMap],
    texts: Mapping[str, str | bytes],
    ours: re.Pattern[str],
    overwrite: bool = False,
    compress: bool = True,
) -> Exported:
    """Write the files of an export, all at once; those of an earlier one are replaced.

    Parameters
    ----------
    results : Results
    out_dir : Path
        A folder that is empty, or of an earlier export, or does not exist.
    target : str
        Whose names the files have.
    maps : sequence of ExportedMap
    texts : mapping of str to str or bytes
        The content of each other file, by its name below the folder.
    ours : pattern
        Of names below the folder that could be those of files of such an export.
    overwrite : bool
        Replace also the export of other results.
    compress : bool
        Compress the maps.

    Raises
    ------
    InputError
        If the folder has files of somebody else, or the export of other results.
    """

    def is_ours(name: str) -> bool:
        return ours.fullmatch(name) is not None

    out_dir = out_dir.absolute()
    names = {each.info.name: name_map(results.space, each.info.name, compress) for each in maps}
    check_folder(out_dir, ours, [*names.values(), *texts])
    claim = Claim(fingerprint("export", target, str(results.folder)), results.folder, overwrite)

    def write(folder: Path) -> None:
        for each in maps:
            _write_map(results, folder / names[each.info.name], each)
        for name, text in texts.items():
            content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    publish(out_dir, _stamp(results, target, maps, texts), claim, write, is_ours)
    outputs: dict[str, list[Path]] = {}
    for each in maps:
        outputs.setdefault(each.output, []).append(out_dir / names[each.info.name])
    return Exported(out_dir, outputs, {name: out_dir / name for name in texts})


def _write_map(results: Results, path: Path, exported: ExportedMap) -> None:
    """Write a map; also what is outside of the result, unless that is 0."""
    volumes = exported.convert()
    if exported.outside == 0:
        results.space.write(path, exported.info, volumes, exported.dtype)
        return
    whole = np.full((len(volumes), results.inside.size), exported.outside, exported.dtype)
    whole[:, results.inside] = volumes
    results.whole_space.write(path, exported.info, whole, exported.dtype)


def _stamp(
    results: Results, target: str, maps: Sequence[ExportedMap], texts: Mapping[str, str | bytes]
) -> str:
    """Return a fingerprint of all that the files are made from."""
    contents = {name: t if isinstance(t, bytes) else repr(t) for name, t in texts.items()}
    others = sorted((name, fingerprint(content)) for name, content in contents.items())
    parts = [target, __version__, str(results.folder), repr(others)]
    for each in maps:
        state = each.source.stat()
        parts.append(repr((each.info, str(each.dtype), state.st_size, state.st_mtime_ns)))
    return fingerprint(*parts)


def check_folder(out_dir: Path, ours: re.Pattern[str], names: Sequence[str] = ()) -> None:
    """Refuse a folder that cannot be written, or that has files of somebody else.

    Parameters
    ----------
    out_dir : Path
    ours : pattern
        Of names that could be those of files of such an export.
    names : sequence of str
        What is to be written; unknown before any map is read.

    Raises
    ------
    InputError
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"{out_dir} is a file; give a folder for the export.")
    obstacle = find_obstacle(out_dir)
    if obstacle is not None:
        raise InputError(f"{out_dir} {obstacle}; give another folder.")
    if not out_dir.exists():
        return
    known = {name for name in list_published(out_dir) if ours.fullmatch(name) is not None}
    found = sorted(p.name for p in out_dir.iterdir() if not p.name.startswith(_HIDDEN))
    foreign = [name for name in names if (out_dir / name).exists() and name not in known]
    if (found and not known) or foreign:
        raise InputError(
            f"{out_dir} has files that no export has written, such as {(foreign or found)[0]}; "
            "give a folder that is empty or does not exist."
        )


def make_pattern(kinds: Sequence[ExportedKind], texts: Sequence[str]) -> re.Pattern[str]:
    """Return what the names of the files of an export look like."""
    label = "[A-Za-z0-9]+"
    fields = {"n": r"\d+", "label": label, "test": "[tF]", "entities": f"([a-z]+-{label}_)*"}

    def match(names: Sequence[str]) -> str:
        patterns = "|".join(map(re.escape, names))
        for field, pattern in fields.items():
            patterns = patterns.replace(re.escape(f"{{{field}}}"), pattern)
        return patterns

    # Maps of any kind, and sidecars.
    ends = r"\.[a-z.]+"
    return re.compile(rf"({match([each.file for each in kinds])}){ends}|{match(texts)}")
