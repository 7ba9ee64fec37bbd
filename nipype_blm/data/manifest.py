"""Which images a batch has: one TSV for each batch, rewritten only when it changes."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from nipype_blm.data.compressed import is_gzip
from nipype_blm.data.files import stat_file
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import fingerprint
from nipype_blm.io.files import FileState


class ImageEntry(NamedTuple):
    """One observation: an image, and the mask of its data if there is one.

    Sizes and times are compared when an image is read.  Identities are only written down, so
    that what a batch has to read again shows when the plan is made: they may differ between
    the hosts of a cluster.
    """

    row: int  # of the design
    image: Path
    volume: int
    state: FileState
    where: str  # how the user named it, for messages
    mask: Path | None = None
    mask_volume: int = 0
    mask_state: FileState = FileState(0, 0, "")
    listed: int = 0  # its place among the images that were given, from 1; 0: not known

    @property
    def files(self) -> tuple[Path, Path | None]:
        """The files that are read, which other entries may share."""
        return self.image, self.mask


_COLUMNS = (
    *("row", "image", "volume", "size", "mtime_ns", "identity", "where"),
    *("mask", "mask_volume", "mask_size", "mask_mtime_ns", "mask_identity", "listed"),
)


def format_manifest(entries: list[ImageEntry]) -> str:
    """Return the text of a manifest, whose last line is a fingerprint of the others."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in entries:  # None is written as an empty cell
        first, mask = entry[:3], entry[5:7]
        states = [*first, *entry.state, entry.where, *mask, *entry.mask_state]
        writer.writerow([*states, entry.listed])
    return f"{text.getvalue()}# {fingerprint(text.getvalue())}\n"


def read_manifest(path: Path) -> list[ImageEntry]:
    """Read the images of a batch.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    return parse_manifest(path.read_bytes(), path)


def parse_manifest(content: bytes, path: Path) -> list[ImageEntry]:
    """Return the images of a manifest; `path` is where it stands, for messages.

    Raises
    ------
    InputError
        If it is damaged.
    """
    table, _, last = content.rpartition(b"# ")
    if last != f"{fingerprint(table)}\n".encode():
        raise InputError(f"{path} is damaged; run again, which makes it anew.")
    text = io.TextIOWrapper(io.BytesIO(table), "utf-8", newline="")  # decoded line by line
    lines = csv.DictReader(text, delimiter="\t")
    return [
        ImageEntry(
            int(line["row"]),
            Path(line["image"]),
            int(line["volume"]),
            FileState(int(line["size"]), int(line["mtime_ns"]), line["identity"]),
            line["where"],
            Path(line["mask"]) if line["mask"] else None,
            int(line["mask_volume"]),
            FileState(int(line["mask_size"]), int(line["mask_mtime_ns"]), line["mask_identity"]),
            int(line["listed"]),
        )
        for line in lines
    ]


def must_be_read_in_order(images: list[ImageEntry]) -> bool:
    """Return whether there are volumes of a compressed file, which is read from its start."""
    files = {image.image for image in images if image.volume}
    files |= {image.mask for image in images if image.mask is not None and image.mask_volume}
    return any(path.is_file() and is_gzip(path) for path in files)


def check_unchanged(entry: ImageEntry) -> None:
    """Raise InputError if an image or its mask is not the file that was planned for."""
    files = [(entry.image, entry.state)]
    if entry.mask is not None:
        files.append((entry.mask, entry.mask_state))
    for path, planned in files:
        try:
            found = stat_file(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read any more: {error.strerror}.") from error
        if found[:2] != planned[:2]:  # this host may see other identities
            raise InputError(f"{path} has changed since the run was planned; run again.")
