"""The driver's modules, as its nodes see them on a worker."""

import os
import runpy
import sys
import sysconfig
import threading
from importlib import invalidate_caches
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from distributed import Worker, WorkerPlugin

LOADING = "NIPYPE_BLM_LOADING_SCRIPT"  # set while a worker runs the driver's script again
_STDLIB, _LIBRARIES = sysconfig.get_path("stdlib"), {"site-packages", "dist-packages"}

# What a worker has before the first run; without the folder that a job starts in, which
# `python -m` looks into first.
_own_paths = tuple(path for path in sys.path if path not in ("", str(Path.cwd())))
_own_modules, _own_main = frozenset(sys.modules), sys.modules["__main__"]
_new_run = threading.Event()  # whose modules may have changed since they were imported


class ImportPaths(WorkerPlugin):
    """Lets nodes import what lies beside the driver's script, as it is when the run starts."""

    def __init__(self) -> None:
        self.name = f"nipype-blm-paths-{uuid4().hex}"
        self.paths = [str(Path(path).absolute()) for path in sys.path]
        self._driver = _describe_process()

    def setup(self, worker: Worker) -> None:
        """Look for modules where the driver does, before those of other runs."""
        if self._driver == _describe_process():
            return  # a worker within the driver has the same modules
        own = [path for path in self.paths if not _is_library(path)]
        # The last are those of other runs.
        sys.path[:] = dict.fromkeys([*own, *_own_paths, *self.paths, *sys.path])
        _new_run.set()

    def teardown(self, worker: Worker) -> None:
        """Look no more where no other run does."""
        if self._driver == _describe_process():
            return
        others = [item.paths for item in worker.plugins.values() if isinstance(item, ImportPaths)]
        kept = {*_own_paths, *chain.from_iterable(others)}
        sys.path[:] = [path for path in sys.path if path in kept]


def prepare_modules(main: "Main | None") -> None:
    """Have a node find the modules of its run, and what the script defines if it needs that."""
    if _new_run.is_set():
        _new_run.clear()
        _forget_modules()
    if main is not None:
        main.load()


def _describe_process() -> tuple[str, int]:
    return os.uname().nodename, os.getpid()


def _forget_modules() -> None:
    """Have the modules of users imported again; those of installed packages stay."""
    sys.modules["__main__"] = _own_main
    stale = {
        name
        for name, module in list(sys.modules.items())
        if "." not in name and name not in _own_modules and not _is_library(_find_home(module))
    }
    for name in list(sys.modules):
        if name.split(".")[0] in stale:
            del sys.modules[name]
    invalidate_caches()


def _is_library(path: str | None) -> bool:
    """Return whether a folder is Python's or of installed packages; built-in modules have none."""
    return path is None or path.startswith(_STDLIB) or bool(_LIBRARIES & set(Path(path).parts))


def _find_home(module: Any) -> str | None:
    """Return in which folder of sys.path a module was found."""
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        return str(Path(folder).parent)
    return str(Path(spec.origin).parent) if spec.has_location else None


class Main(NamedTuple):
    """The driver's script: its module ``__main__``, to be defined in a worker as well."""

    name: str | None  # of a module that was started with ``python -m``
    path: str
    arguments: tuple[str, ...]  # sys.argv

    @classmethod
    def find(cls) -> "Main | None":
        """Return the script of this process; None in a notebook or an interactive session."""
        module = sys.modules["__main__"]
        spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        if path is None or not Path(path).is_file():
            return None
        name = None if spec is None else spec.name
        return cls(name, str(Path(path).absolute()), tuple(sys.argv))

    def load(self) -> None:
        """Define here what the script defines, once for each run."""
        if getattr(sys.modules["__main__"], "__file__", None) == self.path:
            return
        module = ModuleType("__mp_main__")
        os.environ[LOADING] = self.path
        own_arguments, sys.argv = sys.argv, list(self.arguments)
        try:
            if self.name is None:
                found = runpy.run_path(self.path, run_name=module.__name__)
            else:
                found = runpy.run_module(self.name, run_name=module.__name__, alter_sys=True)
        finally:
            del os.environ[LOADING]
            sys.argv = own_arguments
        vars(module).update(found)
        sys.modules["__main__"] = sys.modules[module.__name__] = module
