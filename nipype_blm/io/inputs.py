"""Write inputs.yml: the configuration of a run, complete and re-runnable."""

import importlib.metadata
import platform
from pathlib import Path

import yaml

from nipype_blm import __version__
from nipype_blm.errors import InputError
from nipype_blm.io.files import write_if_changed
from nipype_blm.io.yamlfile import read_yaml
from nipype_blm.model.config import ModelConfig

# Fields that change no map.
_RESOURCES = (
    *("MAXMEM", "numNodes", "clusterType", "work_dir", "keep", "overwrite", "allow_empty"),
    *("sim", "versions"),
)


def read_versions() -> dict[str, str]:
    """Return the versions of everything that computes."""
    libraries = ("nipype", "nibabel", "numpy", "scipy", "numba", "zlib-ng")
    return {
        "nipype_blm": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def write_inputs(path: Path, config: ModelConfig) -> Path:
    """Write every field that has a value, with absolute paths, and the versions."""
    data = config.to_yaml_dict() | {"versions": read_versions()}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=100)
    write_if_changed(path, text.encode())
    return path


def is_written_for(path: Path, config: ModelConfig) -> bool:
    """Return whether an inputs.yml is that of a configuration, whatever it was run with."""
    try:
        found = read_yaml(path)
    except InputError:
        return False
    if not isinstance(found, dict):
        return False
    wanted = config.to_yaml_dict()
    for data in (found, wanted):
        for field in _RESOURCES:
            data.pop(field, None)
    return bool(found == wanted)
