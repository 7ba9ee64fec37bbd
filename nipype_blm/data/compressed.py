"""Files in gzip format: decompressed fast, damage never unnoticed."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import deflate
from zlib_ng import gzip_ng

# Larger images are decompressed piece by piece, so that memory holds them once.
LARGEST_AT_ONCE = 2**28
GZIP_MAGIC = b"\x1f\x8b"
_GZIP_NAME = 8  # the flag of a header with the name of the file; RFC 1952


def is_gzip(path: Path) -> bool:
    """Return whether a file is compressed, whatever its name says."""
    with path.open("rb", buffering=0) as file:
        return file.read(2) == GZIP_MAGIC


def is_named_compressed(path: Path) -> bool:
    """Return whether an image is compressed as a whole, by its name."""
    return path.suffix in (".gz", ".mgz")


def decompress_start(data: bytes, size: int) -> bytes:
    """Return the first bytes of the content, from the first ones of a file."""
    return zlib.decompressobj(31).decompress(data, size)


def inflate_member(data: bytes, size: int) -> bytearray | None:
    """Return the content of a gzip file of one member, if it has this size and is intact."""
    begin = 10
    flags, trailer = data[3], data[-8:]
    if flags & _GZIP_NAME:
        begin = data.find(b"\0", begin) + 1
    # The decoder does not say where the member ends: before, if its trailer is there, too.
    # (From the right, Python looks for it in half the time.)
    if flags & ~_GZIP_NAME or not begin or data.rfind(trailer, 0, -1) >= 0:
        return None
    try:
        content = deflate.deflate_decompress(memoryview(data)[begin:-8], size)
    except deflate.DeflateError:
        return None
    found = deflate.crc32(content), len(content)
    return content if found == struct.unpack("<II", trailer) and len(content) == size else None


class GzipFile(gzip_ng.GzipNGFile):
    """A compressed file that fills a buffer without a copy in between."""

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; Python's own class reads and copies."""
        n: int = self._buffer.readinto(buffer)
        return n


def check_gzip(path: Path) -> None:
    """Read a compressed file to its end, where the checksum is."""
    with GzipFile(path, "rb") as file:
        read_to_end(file, LARGEST_AT_ONCE)


def read_to_end(file: GzipFile, most: float = math.inf) -> None:
    """Read what is left, so that the checksum is tested; refuse more than `most` bytes."""
    while file.read(2**20):
        if file.tell() > most:
            raise ValueError(f"it holds more than {most} bytes, and no image that is known")
