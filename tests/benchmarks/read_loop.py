"""Decompress images one after the other, and nothing else: ``read_loop.py LIST``."""

import sys
from pathlib import Path

from zlib_ng import gzip_ng

files = Path(sys.argv[1]).read_text().split("\n")
with gzip_ng.open(files[0], "rb") as file:
    buffer = memoryview(bytearray(len(file.read()) + 1))
for path in files:
    with gzip_ng.open(path, "rb") as file:
        n_bytes = 0
        while n := file.readinto(buffer[n_bytes:]):
            n_bytes += n
