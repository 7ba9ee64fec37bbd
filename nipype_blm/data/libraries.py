"""What nibabel and other libraries say: in the words of a message, or not at all."""

import gzip
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.tripwire import TripWireError
from zlib_ng import zlib_ng

from nipype_blm.errors import InputError, shorten

_LONGEST_REASON = 300  # characters of what a library says
DAMAGE: Any = (EOFError, gzip.BadGzipFile, zlib.error, zlib_ng.error)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Say what is wrong with an image whose header cannot be read, whatever a library raises."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except DAMAGE as error:  # before OSError, of which some are
        raise InputError(f"{path} is damaged: {_end(join_lines(error))}") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {_end(error.strerror or join_lines(error))}"
        ) from error
    except Exception as error:
        raise InputError(
            f"{path} is not an image that can be read: {_end(describe_error(error))}"
        ) from error


def describe_error(error: Exception) -> str:
    """Return in words what a library raised."""
    if isinstance(error, ImportError | TripWireError):
        named = re.search(r"package (\S+)|'(\S+)'", str(error))  # in the sentences of both
        package = "a library" if named is None else named[1] or named[2]
        return (
            f"reading it needs {package}, which is not installed; install nipype_blm[formats], or "
            "convert it to NIfTI"
        )
    if isinstance(error, KeyError):  # what nibabel finds in no table of codes
        return f"its header has {error}, a code that is not known"
    text = join_lines(error)
    if text.startswith("w2 should be positive"):
        return (
            "its qform is no rotation: quatern_b, quatern_c and quatern_d of its header have a "
            "length above 1; give it a right qform or sform"
        )
    if isinstance(error, ImageFileError | HeaderDataError | ImageDataError | ValueError):
        return text
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"{kind}: {text}" if text else kind


def join_lines(error: Exception) -> str:
    """Return what a library says in one line, which is not long."""
    return shorten(" ".join(str(error).split()), _LONGEST_REASON)


def _end(reason: object) -> str:
    """Return what went wrong with one full stop, which some libraries' messages have."""
    return f"{str(reason).rstrip('.')}."


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what nibabel says about headers from the terminal: what matters is an InputError."""
    logger = logging.getLogger("nibabel.global")
    was_disabled = logger.disabled
    with warnings.catch_warnings():
        for module in (r"nibabel\.", r"nipype_blm\.data\."):
            warnings.filterwarnings("ignore", module=module)
        logger.disabled = True
        try:
            yield
        finally:
            logger.disabled = was_disabled
