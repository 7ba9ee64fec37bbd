"""Say that kernels are compiled, which takes as long as nobody expects, and only once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from nipype_blm.core._jit import telling_of_compilation
from nipype_blm.progress import COMPILING, describe_compiling, find_listener

# Seconds of one core of an AMD EPYC, of 2026-11-29.
READING_S, FITTING_S, MIXED_S, TESTING_S, RESAMPLING_S = 3, 8, 30, 4, 40

_logger = logging.getLogger(__name__)


@contextmanager
def announcing_compilation(what: str, seconds: int) -> Iterator[None]:
    """Tell whoever listens, or the log, before kernels are compiled in the context.

    Parameters
    ----------
    what : str
        What the kernels do.
    seconds : int
        About how long it takes.
    """
    listener = find_listener()  # here: kernels run in other threads, too
    if listener is None:

        def listener(what: str, seconds: int) -> None:
            _logger.info(describe_compiling(what, seconds))

    with telling_of_compilation(partial(listener, f"{COMPILING} {what}", seconds)):
        yield
