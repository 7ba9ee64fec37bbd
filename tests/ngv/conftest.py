"""Real circuits of ArchNGV's source, and the Python that has ArchNGV."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def functional_circuit() -> Path:
    """Folder ``tests/functional`` of ArchNGV's source, with what it expects of 5 astrocytes."""
    return Path(os.environ["NIPYPE_BLM_FUNCTIONAL_CIRCUIT"])


@pytest.fixture(scope="session")
def ngv_python() -> Path:
    """Python of the environment that has ArchNGV."""
    return Path(os.environ["NIPYPE_BLM_NGV_PYTHON"])
