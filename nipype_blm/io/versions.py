"""The versions of everything that computes."""

import functools
import importlib.metadata
import platform

from nipype_blm import __version__

_find_version = functools.cache(importlib.metadata.version)  # which parses a file of each package


def read_versions() -> dict[str, str]:
    """Return the versions of everything that computes."""
    libraries = ("nipype", "nibabel", "numpy", "scipy", "numba", "zlib-ng", "formulae")
    return {
        "nipype_blm": __version__,
        "python": platform.python_version(),
        **{name: _find_version(name) for name in libraries},
    }
