"""The files of an image, which may have two: where its voxels are, and whether it has changed."""

import re
from pathlib import Path

from nipype_blm.io.files import FileState, read_state


def find_voxels(path: Path) -> Path:
    """Return the file that has the voxels of an image, whose header may have one of its own."""
    pair = find_pair(path)
    return path if pair is None or not is_header(path) else pair


def is_header(path: Path) -> bool:
    """Return whether a file is the header of an image of two."""
    return path.name.lower().removesuffix(".gz").endswith(".hdr")


def find_pair(path: Path) -> Path | None:
    """Return the other file of an image of two, if it is there."""
    pair = name_pair(path)
    return pair if pair is not None and pair.exists() else None


def name_pair(path: Path) -> Path | None:
    """Return the other name of an image of two files: of .hdr and .img, in either case."""
    found = re.fullmatch(r"(.*)\.(hdr|img)(\.gz)?", path.name, re.IGNORECASE)
    if found is None:
        return None
    stem, kind, end = found.groups(default="")
    other = {"hdr": "img", "img": "hdr", "HDR": "IMG", "IMG": "HDR"}.get(kind)
    return path.with_name(f"{stem}.{other}{end}")


def stat_file(path: Path) -> FileState:
    """Return what changes when an image does.

    For an image of two files (.hdr and .img) it is about both: a change of either shows.
    """
    pair = find_pair(path)
    found = [read_state(each) for each in (path, pair) if each is not None]
    return FileState(
        sum(each.size for each in found),
        sum(each.mtime_ns for each in found),
        " ".join(each.identity for each in found),
    )


def identify_file(path: Path) -> tuple[int, int]:
    """Return what two paths share only if they lead to the same voxels: device and inode."""
    found = find_voxels(path).stat()
    return found.st_dev, found.st_ino
