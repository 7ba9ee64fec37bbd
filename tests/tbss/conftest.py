"""An engine for heads in memory; ANTs only where `make short` installs it."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from fa_small import add_engine

from nipype_blm.tbss.engines import ENGINES


@pytest.fixture
def heads() -> Iterator[None]:
    """The engine ``heads`` of `fa_small`, and what a test adds, until it ends."""
    before = dict(ENGINES)
    add_engine()
    yield
    ENGINES.clear()
    ENGINES.update(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs ANTs, which holds back numpy and scipy."""
    if sys.version_info[:2] == (3, 13) or find_spec("ants") is not None:
        return
    left_out = [item for item in items if _needs_ants(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _needs_ants(item)]


def _needs_ants(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("engine") == "ants"
