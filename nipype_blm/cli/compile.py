"""``nipype-blm compile``: fill the cache of compiled kernels ahead of the first run."""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from nipype_blm.cli.command import FAILED, OK, add_common_options, describe, say

_DESCRIPTION = (
    "Compile what reads images, fits linear and mixed models and tests contrasts, which takes "
    "minutes, once for a machine and version; else the first runs do, each what it needs.  Small "
    "made studies are fitted in a temporary folder.  The kernels of one host are not used on "
    "another: run this on each, such as by `nipype-blm commands`."
)


def add_compile(tools: Any) -> None:
    """Add the command ``compile`` to those of ``nipype-blm``."""
    parser = tools.add_parser("compile", help="compile all kernels ahead")
    describe(parser, _DESCRIPTION, ["", "--quiet"])
    add_common_options(parser)
    parser.set_defaults(action=_compile)


def _compile(arguments: argparse.Namespace) -> int:
    from nipype_blm.core._jit import cache_directory
    from nipype_blm.stages.samples import SAMPLES

    cache = cache_directory()
    if not cache.name.endswith(f"-{os.getuid()}"):  # nobody finds it again
        cache.rmdir()
        say(
            "error: no folder for compiled kernels can be written, neither ~/.cache nor the "
            "temporary directory; set NUMBA_CACHE_DIR to one that is yours."
        )
        return FAILED
    quiet, start = arguments.quiet, time.monotonic()
    n_compiled = 0
    for number, sample in enumerate(SAMPLES, 1):
        n_compiled += _fit(sample, f"{number} of {len(SAMPLES)}, {sample.what}", quiet)
    if not quiet and n_compiled:
        print(f"All kernels are compiled, in {time.monotonic() - start:.0f} s: {cache}")
    elif not quiet:
        print(f"Nothing to do: all kernels are compiled already: {cache}")
    return OK


def _fit(sample: Any, what: str, quiet: bool) -> int:
    """Fit a study; return how often something had to be compiled for it."""
    from nipype_blm.progress import COMPILING, describe_compiling, listening
    from nipype_blm.stages.samples import fit_sample

    heard: list[str] = []

    def hear(event: str, seconds: int) -> None:
        if event.startswith(COMPILING):
            heard.append(event)
            if not quiet:
                say(f"{what}: {describe_compiling(event, seconds)}")

    start = time.monotonic()
    with listening(hear), tempfile.TemporaryDirectory(prefix="nipype_blm-") as folder:
        fit_sample(sample, Path(folder))
    if heard and not quiet:
        say(f"{what}: {time.monotonic() - start:.0f} s")
    return len(heard)
