"""Stores that may be too busy, or out of reach, for a while: what is asked of them is repeated."""

import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from nipype_blm.blockmap.channels import Channel
from nipype_blm.blockmap.options import Config
from nipype_blm.blockmap.tokens import redact
from nipype_blm.errors import InputError, count

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LONGEST_PAUSE_S = 60.0


class ReadError(RuntimeError):
    """Something could not be read."""


class WriteError(RuntimeError):
    """Something could not be written."""


def read_with_retries(channel: Channel, start: Any, stop: Any, config: Config) -> NDArray[Any]:
    """Return a box of a channel; errors are those of `retry`."""
    place = f"{channel.name} at z, y, x from {start} to {stop} could not be read"
    return retry(partial(channel.read, start, stop), place, ReadError, config)


def retry(action: Callable[[], T], failed: str, kind: type[RuntimeError], config: Config) -> T:
    """Return what an action gives; it is tried again after pauses that double.

    Parameters
    ----------
    action : callable
        May be repeated.
    failed : str
        What is said if it fails.
    kind : type
        Of the error that is raised then.
    config : Config
        Tells how often, and how long the pauses are.

    Raises
    ------
    ReadError or WriteError, as `kind`
        If all fails.
    InputError
        If what is wrong stays wrong, such as a token that is refused.
    """
    for attempt in range(config.retries + 1):
        try:
            return action()
        except InputError:
            raise
        except OSError as error:
            reason = redact(f"{type(error).__name__}: {error}")
            if attempt == config.retries:
                raise kind(f"{failed}, {count(attempt + 1, 'time')}: {reason}") from error
        except Exception as error:
            raise kind(f"{failed}: {redact(f'{type(error).__name__}: {error}')}") from error
        pause_s = min(_LONGEST_PAUSE_S, config.retry_pause_s * 2**attempt)
        # Not all workers at the same moment: the server has too much to do already.
        pause_s *= 1 + random.random() / 4
        logger.warning("%s, and is tried again in %.1f s: %s", failed, pause_s, reason)
        time.sleep(pause_s)
    raise AssertionError
