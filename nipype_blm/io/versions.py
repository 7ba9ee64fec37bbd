"""The versions of everything that computes."""

import importlib.metadata
import platform

from nipype_blm import __version__


def read_versions() -> dict[str, str]:
    """Return the versions of everything that computes."""
    libraries = ("nipype", "nibabel", "numpy", "scipy", "numba", "zlib-ng", "formulae")
    return {
        "nipype_blm": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in libraries},
    }
