"""Where commands run: on this machine, on a pool, or on a pool that is started for them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype_blm.errors import InputError


def add_where_options(parser: argparse.ArgumentParser, n_procs: str) -> None:
    """Add where a command runs what it runs.

    Parameters
    ----------
    n_procs : str
        What ``--n-procs`` is for.
    """
    parser.add_argument("--n-procs", type=int, metavar="N", help=n_procs)
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="POOL.json",
        help="run on the pool that `nipype-blm pool start` has started",
    )
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        help="run on a pool of workers started for this: slurm, sge, ..., or local",
    )
    parser.add_argument(
        "--n-workers", type=int, metavar="N", help="most workers of that pool at a time"
    )
    parser.add_argument(
        "--plugin-args",
        type=Path,
        metavar="FILE.yml",
        help="arguments of that pool, one `name: value` a line; as those of DaskPlugin",
    )
    parser.add_argument(
        "--allow-insecure",
        action="store_true",
        help="also a POOL.json that somebody else could have written, or a pool without TLS",
    )


def list_too_low(arguments: argparse.Namespace, least: Mapping[str, int]) -> list[str]:
    """Return what is wrong with options that are numbers, by the least that each may be."""
    given = {name: getattr(arguments, name) for name in least}
    return [
        f"--{name.replace('_', '-')} {n} was given; expected {least[name]} or more."
        for name, n in given.items()
        if n is not None and n < least[name]
    ]


def read_pool(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the arguments of a pool; None where it runs without one.

    Raises
    ------
    InputError
    """
    from nipype_blm.cli.plugins import read_arguments

    of_new = {name: getattr(arguments, name) for name in ("cluster", "n_workers")}
    given = {name: value for name, value in of_new.items() if value is not None}
    if arguments.pool is not None:
        if given or arguments.plugin_args is not None:
            raise InputError(
                "--pool names the pool that runs everything; leave out --cluster, --n-workers and "
                "--plugin-args."
            )
        pool = arguments.pool.expanduser().absolute()
        return {"scheduler_file": pool, "allow_insecure": arguments.allow_insecure}
    if not given and arguments.plugin_args is None:
        return None
    if arguments.n_procs is not None:
        raise InputError("--n-procs is for this machine; of a pool give --n-workers.")
    insecure = {"allow_insecure": True} if arguments.allow_insecure else {}
    return read_arguments(arguments.plugin_args) | given | insecure
