"""A process with this folder on its PYTHONPATH reads images slowly, and notes each that it read.

It reads no further while there is the file $HOLD.
"""

import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path


def _slow_down(module):
    read = module.ImageReader.read

    def read_slowly(reader, path, *rest):
        found = read(reader, path, *rest)
        if path.name.startswith(("blm_vox_", "blmm_vox_", "contrast-")):
            return found  # a map of a result, of which it is told what was found
        with Path(os.environ["NOTED"]).open("a") as file:  # one short line: appended in one piece
            file.write(f"{path.name}\n")
        time.sleep(0.01)
        while os.path.exists(os.environ.get("HOLD", "")):  # noqa: PTH110
            time.sleep(0.01)
        return found

    module.ImageReader.read = read_slowly


def _save_often(module):
    module._SECONDS_BETWEEN = module._TIMES_COST = 0


_CHANGES = {"nipype_blm.data.images": _slow_down, "nipype_blm.stages.checkpoints": _save_often}


class _Finder(MetaPathFinder):
    """Changes modules when they are imported."""

    def find_spec(self, name, *_):
        if name not in _CHANGES:
            return None
        change = _CHANGES.pop(name)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change
        return spec


if "NOTED" in os.environ:
    for name in _CHANGES.keys() & sys.modules.keys():  # of a forked process
        _CHANGES.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _Finder())
