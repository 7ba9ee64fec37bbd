"""The driver's modules, as its nodes see them on a worker."""

import os
import runpy
import sys
import sysconfig
from importlib import invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from distributed import Worker, WorkerPlugin

LOADING = "NIPYPE_BLM_LOADING_SCRIPT"  # set while a worker runs the driver's script again
_STDLIB, _LIBRARIES = sysconfig.get_path("stdlib"), {"site-packages", "dist-packages"}

# What a worker has before the first run; without the folder that a job starts in, which
# `python -m` looks into first.
_start_path = tuple(sys.path)
_own_paths = tuple(path for path in sys.path if path not in ("", str(Path.cwd())))
_own_modules, _own_main = frozenset(sys.modules), sys.modules["__main__"]
_paths_of_runs: dict[str, list[str]] = {}
_last_run: list[str] = []  # that of the node before, whose modules are there


class ImportPaths(WorkerPlugin):
    """Lets the nodes of a run import what lies beside the driver's script, as it is then."""

    def __init__(self) -> None:
        self.name = f"nipype-blm-paths-{uuid4().hex}"
        self._paths = [str(Path(path).absolute()) for path in sys.path]
        self._driver = describe_process()

    def setup(self, worker: Worker) -> None:
        """Note where the driver looks for modules; a worker within the driver has them."""
        if self._driver != describe_process():
            _paths_of_runs[self.name] = self._paths

    def teardown(self, worker: Worker) -> None:
        """Look there no more."""
        _paths_of_runs.pop(self.name, None)
        if _last_run == [self.name]:
            _last_run.clear()
            sys.path[:] = _start_path


def prepare_modules(run: str, main: "Main | None") -> None:
    """Have a node find the modules of its run, and what the script defines if it needs that.

    Parameters
    ----------
    run : str
        Name of the run's `ImportPaths`.
    main : Main, optional
    """
    if run in _paths_of_runs and _last_run != [run]:
        paths = _paths_of_runs[run]
        own = [path for path in paths if not _is_library(path)]
        sys.path[:] = dict.fromkeys([*own, *_own_paths, *paths])
        _forget_modules()
        _last_run[:] = [run]
    if main is not None:
        main.load()


def describe_process() -> dict[str, Any]:
    """Return what tells this process from all others."""
    return {"host": os.uname().nodename, "pid": os.getpid()}


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
    driver: dict[str, Any]  # its process

    @classmethod
    def find(cls) -> "Main | None":
        """Return the script of this process; None in a notebook or an interactive session."""
        module = sys.modules["__main__"]
        spec, path = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        if path is None or not Path(path).is_file():
            return None
        name = None if spec is None or spec.name == "__main__" else spec.name
        return cls(name, str(Path(path).absolute()), tuple(sys.argv), describe_process())

    def load(self) -> None:
        """Define here what the script defines, once for each run."""
        is_there = getattr(sys.modules["__main__"], "__file__", None) == self.path
        if is_there or self.driver == describe_process():
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
