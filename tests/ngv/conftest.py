"""Fixtures of tests of circuits."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ngv_python() -> Path:
    """Python of the environment that ArchNGV is installed in."""
    path = os.environ.get("NIPYPE_BLM_NGV_PYTHON")
    if not path:
        pytest.skip("NIPYPE_BLM_NGV_PYTHON is not set: set it to the Python of ArchNGV")
    return Path(path)
