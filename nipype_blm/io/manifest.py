"""Which images a batch has: one TSV for each batch, rewritten only when it changes."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from nipype_blm.errors import InputError
from nipype_blm.io.images import is_gzip, stat_file


class ImageEntry(NamedTuple):
    """One observation: an image, and the mask of its data if there is one."""

    row: int  # of the design
    image: Path
    volume: int
    size: int  # bytes
    mtime_ns: int
    where: str  # how the user named it, for messages
    mask: Path | None = None
    mask_volume: int = 0
    mask_size: int = 0
    mask_mtime_ns: int = 0


def format_manifest(entries: list[ImageEntry]) -> str:
    """Return the text of a manifest."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(ImageEntry._fields)
    writer.writerows(entries)  # None is written as an empty cell
    return text.getvalue()


def read_manifest(path: Path) -> list[ImageEntry]:
    """Read the images of a batch."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            ImageEntry(
                int(line["row"]),
                Path(line["image"]),
                int(line["volume"]),
                int(line["size"]),
                int(line["mtime_ns"]),
                line["where"],
                Path(line["mask"]) if line["mask"] else None,
                int(line["mask_volume"]),
                int(line["mask_size"]),
                int(line["mask_mtime_ns"]),
            )
            for line in csv.DictReader(file, delimiter="\t")
        ]


def must_be_read_in_order(images: list[ImageEntry]) -> bool:
    """Return whether there are volumes of a compressed file, which is read from its start."""
    files = {image.image for image in images if image.volume}
    files |= {image.mask for image in images if image.mask is not None and image.mask_volume}
    return any(path.is_file() and is_gzip(path) for path in files)


def check_unchanged(entry: ImageEntry) -> None:
    """Raise InputError if an image or its mask is not the file that was planned for."""
    files = [(entry.image, (entry.size, entry.mtime_ns))]
    if entry.mask is not None:
        files.append((entry.mask, (entry.mask_size, entry.mask_mtime_ns)))
    for path, planned in files:
        try:
            found = stat_file(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read any more: {error.strerror}.") from error
        if found != planned:
            raise InputError(f"{path} has changed since the run was planned; run again.")
