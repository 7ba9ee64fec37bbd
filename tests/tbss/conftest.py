"""Leave out ANTs, which holds back numpy and scipy, where `make short` does not install it."""

import sys
from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs ANTs."""
    if sys.version_info[:2] == (3, 13) or find_spec("ants") is not None:
        return
    left_out = [item for item in items if _needs_ants(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _needs_ants(item)]


def _needs_ants(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("engine") == "ants"
