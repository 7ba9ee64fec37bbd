"""inputs.yml: the record of a request beside its maps, a configuration that can be run again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nipype_blm.errors import InputError
from nipype_blm.frontends.blm import WORDS
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.versions import read_versions
from nipype_blm.io.yamlfile import read_yaml

# Fields of a request that change no map.
_RESOURCES = (
    *("max_bytes", "n_threads", "n_workers", "cluster", "work_dir", "keep", "overwrite"),
    *("allow_empty", "quiet", "inference", "diagnostics", "report"),
)
_LEFT_OUT = {"versions", *map(WORDS.name, _RESOURCES)}


def write_inputs(path: Path, record: Mapping[str, Any]) -> Path:
    """Write the record of a request, and the versions of all that computes.

    What is there already with the same content keeps its time.
    """
    data = {**record, "versions": read_versions()}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=100)
    write_if_changed(path, text.encode())
    return path


def is_written_for(path: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a file has the record of a request, whatever it was run with.

    A request without a record has no file, and whatever is there says nothing of it.
    """
    if not record:
        return True
    try:
        found = read_yaml(path)
    except InputError:
        return False
    return isinstance(found, dict) and _select(found) == _select(record)


def _select(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes maps."""
    return {name: value for name, value in record.items() if name not in _LEFT_OUT}
