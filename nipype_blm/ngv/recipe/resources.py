"""Resources of stages, as ArchNGV's cluster.yaml asks for them, in the terms of Nipype's nodes."""

import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, show

_SIZES = {"": 1.0, "K": 2**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}  # MiB, as of Slurm
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
# What goes to sbatch, where options are called the same.
_OF_SLURM = (
    *("account", "partition", "constraint", "time"),
    *("qos", "reservation", "exclude", "nodelist"),
)
_IN_BRACES = re.compile(r"\$\{*(\w+)\}*")
_WORD = re.compile(r"[\w.,:@%+=/&|\[\]-]*")
# Minutes; minutes and seconds; hours, minutes and seconds; after days hours, and minutes, ...
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


class Resources(NamedTuple):
    """What a node asks for."""

    n_procs: int = 1
    mem_gb: float | None = None  # GiB, as Nipype has it
    sbatch_options: tuple[str, ...] = ()
    qsub_options: tuple[str, ...] = ()

    @property
    def plugin_args(self) -> dict[str, str]:
        """Arguments of Nipype's SLURM and SGE plugins, which come after those of the whole run."""
        # These plugins do not tell what they know of a node, n_procs and mem_gb.
        sbatch = list(self.sbatch_options)
        if self.n_procs > 1:
            sbatch.append(f"--cpus-per-task={self.n_procs}")
        if self.mem_gb is not None:
            sbatch.append(f"--mem={math.ceil(self.mem_gb * 2**10)}M")
        given = {"sbatch_args": sbatch, "qsub_args": self.qsub_options}
        return {name: shlex.join(options) for name, options in given.items() if options}


def read_resources(entry: Mapping[str, Any], stage: str) -> Resources:
    """Return what a node asks for, of an entry of cluster.yaml.

    ``cpus-per-task`` and ``mem`` are Nipype's n_procs and mem_gb, which all of its plugins know,
    and go to sbatch, too; so do ``time``, ``partition``, ``account``, ``constraint``, ``qos``,
    ``reservation``, ``exclude``, ``nodelist`` and ``exclusive``.  Of Grid Engine only ``time`` is
    called the same everywhere (h_rt).
    How many machines and tasks MPI has is not asked for: cells are bundles, each a job of its own.

    Raises
    ------
    InputError
    """
    where = f"cluster: {stage}: "
    n_procs = entry.get("cpus-per-task") or 1
    if not isinstance(n_procs, int) or isinstance(n_procs, bool) or n_procs < 1:
        raise InputError(f"{where}cpus-per-task: {show(n_procs)} was given; expected 1 or more.")
    mib = _read_memory(entry.get("mem"), where)
    options = [f"--{name}={text}" for name in _OF_SLURM if (text := _read(entry, name, where))]
    exclusive = entry.get("exclusive", False)
    if not isinstance(exclusive, bool):
        raise InputError(f"{where}exclusive: {show(exclusive)} was given; expected true or false.")
    if exclusive:
        options.append("--exclusive")
    if mib == 0:
        options.append("--mem=0")  # all of the machine
    seconds = _read_time(entry, where)
    return Resources(
        n_procs,
        mib / 2**10 if mib else None,
        tuple(options),
        () if seconds is None else ("-l", f"h_rt={_write_time(seconds)}"),
    )


def _read_memory(value: Any, where: str) -> float | None:
    """Return MiB; None where it is not said."""
    if value is None:
        return None
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise InputError(f"{where}mem: {show(value)} was given; expected a size, such as 8G.")
    return float(found[1]) * _SIZES[found[2].upper()]


def _read(entry: Mapping[str, Any], name: str, where: str) -> str:
    """Return what an option is given; nothing where it is a variable that is not set."""
    value = entry.get(name)
    if value is None:
        return ""
    variable = _IN_BRACES.fullmatch(str(value))
    text = os.environ.get(variable[1], "") if variable else str(value)
    is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not is_plain or not _WORD.fullmatch(text):
        raise InputError(f"{where}{name}: {show(value)} was given; expected a plain word.")
    return text


def _read_time(entry: Mapping[str, Any], where: str) -> int | None:
    """Return seconds; None where there is no limit."""
    text = _read(entry, "time", where)
    if text.lower() in ("", "unlimited", "infinite"):
        return None
    found = _TIME.fullmatch(text)
    if found is None:
        raise InputError(
            f"{where}time: {show(entry['time'])} was given; expected minutes, or a time such as "
            "04:00:00 or 1-12:00:00."
        )
    days, *parts = found.groups()
    given = [int(part) for part in parts if part is not None]
    if days is None and len(given) < 3:
        given.insert(0, 0)  # no hours
    hours, minutes, seconds = (*given, 0, 0)[:3]
    return (int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds


def _write_time(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"
