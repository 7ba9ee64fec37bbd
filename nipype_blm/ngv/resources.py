"""Resources of stages, as ArchNGV's cluster.yaml asks for them, in the terms of Nipype's nodes."""

import os
import re
import shlex
from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

from nipype_blm.errors import InputError, show

_SIZES = {"": 2**-10, "K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}  # GiB, as of Slurm
# What goes to sbatch, and what the option is called there.
_OF_SLURM = {
    "account": "account",
    "partition": "partition",
    "constraint": "constraint",
    "time": "time",
    "qos": "qos",
    "reservation": "reservation",
    "exclude": "exclude",
    "nodelist": "nodelist",
}
# Of one node of Nipype: processes of MPI on several machines are not what it is.
_OF_MPI = ("nodes", "tasks", "ntasks", "ntasks-per-node", "jobname")
_IN_BRACES = re.compile(r"\$\{*(\w+)\}*")


class Resources(NamedTuple):
    """What a node asks for."""

    n_procs: int = 1
    mem_gb: float | None = None
    options: str = ""  # of sbatch, beside these two

    @property
    def plugin_args(self) -> dict[str, str]:
        """Arguments of Nipype's SLURM plugin, which asks for neither cores nor memory by itself."""
        words = [
            "" if self.n_procs == 1 else f"--cpus-per-task={self.n_procs}",
            "" if self.mem_gb is None else f"--mem={ceil(self.mem_gb * 1024)}M",
            self.options,
        ]
        given = " ".join(filter(None, words))
        # Nipype's SGE plugin reads qsub_args, of which there are none.
        return {"sbatch_args": given} if given else {}


def read_resources(entry: Mapping[str, Any], stage: str) -> Resources:
    """Return what a node asks for, of an entry of cluster.yaml.

    ``cpus-per-task`` and ``mem`` are Nipype's n_procs and mem_gb, and go to sbatch as ``time``,
    ``partition``, ``account``, ``constraint``, ``qos`` and ``exclusive`` do.
    How many machines and tasks MPI has is not asked for: cells are bundles, each a job of its own.

    Raises
    ------
    InputError
    """
    where = f"cluster: {stage}: "
    options = _write_options(entry, where)
    n_procs = entry.get("cpus-per-task", 1)
    if not isinstance(n_procs, int) or isinstance(n_procs, bool) or n_procs < 1:
        raise InputError(f"{where}cpus-per-task: {show(n_procs)} was given; expected 1 or more.")
    return Resources(n_procs, _read_memory(entry.get("mem"), where), options)


def _read_memory(value: Any, where: str) -> float | None:
    """Return GiB; None where it is not said, or all of a machine."""
    if value in (None, 0, "0"):
        return None
    found = re.fullmatch(r"([0-9.]+)\s*([KMGT]?)(i?B)?", str(value).strip(), re.IGNORECASE)
    if found is None:
        raise InputError(f"{where}mem: {show(value)} was given; expected a size, such as 8G.")
    return float(found[1]) * _SIZES[found[2].upper()]


def _write_options(entry: Mapping[str, Any], where: str) -> str:
    """Return options of sbatch, without those whose variable is not set."""
    options = []
    for name, option in _OF_SLURM.items():
        value = entry.get(name)
        if value is None:
            continue
        variable = _IN_BRACES.fullmatch(str(value))
        text = os.environ.get(variable[1], "") if variable else _write_value(value, name)
        if not re.fullmatch(r"[\w.,:@%+=/&|\[\]-]*", text):
            raise InputError(f"{where}{name}: {show(value)} was given; expected a plain word.")
        if text:
            options.append(f"--{option}={shlex.quote(text)}")
    if entry.get("exclusive"):
        options.append("--exclusive")
    if entry.get("mem") in (0, "0"):
        options.append("--mem=0")
    return " ".join(options)


def _write_value(value: Any, name: str) -> str:
    if name == "time" and isinstance(value, int):  # YAML 1.1 reads 4:00:00 as a number of seconds
        minutes, seconds = divmod(value, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    return str(value)
