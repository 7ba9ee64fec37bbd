"""Hides the files of other processes for some seconds, as a network disk may.

Python imports this when it starts, if the folder is on PYTHONPATH.  Files below $LATE_FILES_BELOW
that another process has made or renamed in the last $LATE_FILES_SECONDS are not there for whoever
opens, asks for or lists them; whoever writes or renames them talks to the server, and is served.
"""

import builtins
import io
import os
import stat
import time

_ROOT = os.environ.get("LATE_FILES_BELOW")
_SECONDS = float(os.environ.get("LATE_FILES_SECONDS", "0"))
_own: set[tuple[int, int]] = set()
_lstat, _fstat = os.lstat, os.fstat


def _is_hidden(path):
    if not isinstance(path, str | os.PathLike):
        return False
    path = os.fspath(path)
    if not isinstance(path, str) or not os.path.abspath(path).startswith(_ROOT):  # noqa: PTH100
        return False
    try:
        found = _lstat(path)
    except (OSError, ValueError):
        return False
    is_young = time.time() - found.st_ctime < _SECONDS
    return is_young and stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in _own


def _note(number):
    found = _fstat(number)
    _own.add((found.st_dev, found.st_ino))


def _hide(path):
    raise FileNotFoundError(2, "No such file or directory", os.fspath(path))


def _patch_look(module, name):
    real = getattr(module, name)

    def look(path, *args, **kwargs):
        if kwargs.get("dir_fd") is None and _is_hidden(path):
            _hide(path)
        return real(path, *args, **kwargs)

    setattr(module, name, look)


def _patch_list():
    listdir, scandir = os.listdir, os.scandir

    def list_(path="."):
        names = listdir(path)
        if isinstance(path, int):
            return names
        return [name for name in names if not _is_hidden(f"{os.fspath(path)}/{name}")]

    class Scan:
        def __init__(self, path="."):
            self._path, self._real = path, scandir(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._real.close()

        def close(self):
            self._real.close()

        def __iter__(self):
            return self

        def __next__(self):
            entry = next(self._real)
            while not isinstance(self._path, int) and _is_hidden(entry.path):
                entry = next(self._real)
            return entry

    os.listdir, os.scandir = list_, Scan


def _patch_open():
    real_open, real_os_open = io.open, os.open

    def open_(file, mode="r", *args, **kwargs):
        if set(mode) <= set("rbtU") and _is_hidden(file):
            _hide(file)
        opened = real_open(file, mode, *args, **kwargs)
        if not set(mode) <= set("rbtU"):
            _note(opened.fileno())
        return opened

    def os_open(path, flags, *args, **kwargs):
        if not flags & os.O_CREAT and kwargs.get("dir_fd") is None and _is_hidden(path):
            _hide(path)
        number = real_os_open(path, flags, *args, **kwargs)
        if flags & os.O_CREAT:
            _note(number)
        return number

    builtins.open = io.open = open_
    os.open = os_open


if _ROOT:
    _patch_look(os, "stat")
    _patch_look(os, "lstat")
    _patch_list()
    _patch_open()
