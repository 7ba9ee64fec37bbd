"""Whoever listens, or the log, is told when kernels are compiled, and only then."""

import logging
import threading

import numba
import pytest

from nipype_blm.progress import COMPILING, listening
from nipype_blm.stages.compiling import announcing_compilation


def make_kernel():
    """Return a function that has yet to be compiled."""

    @numba.njit
    def add_one(x):
        return x + 1

    return add_one


@pytest.fixture
def told():
    """What a listener was told."""
    found = []
    with listening(lambda what, n: found.append((what, n))):
        yield found


def test_a_listener_is_told_once_however_much_is_compiled(told):
    with announcing_compilation("fits voxels", 8):
        assert make_kernel()(1) == 2
        assert make_kernel()(2.5) == 3.5
    assert told == [(f"{COMPILING} fits voxels", 8)]


def test_nothing_is_said_of_kernels_that_are_compiled_already(told):
    kernel = make_kernel()
    kernel(1)
    with announcing_compilation("fits voxels", 8):
        kernel(2)
    assert told == []


def test_what_is_compiled_in_another_thread_counts(told):
    with announcing_compilation("reads images", 3):
        thread = threading.Thread(target=make_kernel(), args=(1,))
        thread.start()
        thread.join()
    assert told == [(f"{COMPILING} reads images", 3)]


def test_what_is_compiled_afterwards_is_nobodys_concern(told):
    with announcing_compilation("fits voxels", 8):
        pass
    make_kernel()(1)
    assert told == []


def test_without_a_listener_the_log_is_told(caplog, monkeypatch):
    monkeypatch.delenv("NIPYPE_BLM_ANNOUNCE", raising=False)
    with (
        caplog.at_level(logging.INFO, "nipype_blm"),
        announcing_compilation("tests contrasts", 4),
    ):
        make_kernel()(1)
    [record] = caplog.records
    assert record.getMessage() == (
        "compiling what tests contrasts, once for this machine and version: about 4 s"
    )
