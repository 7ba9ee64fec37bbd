"""The arguments of `DaskPlugin`, checked before anything is submitted."""

import difflib
import inspect
import ipaddress
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import dask.config
from dask.system import CPU_COUNT
from dask.utils import parse_bytes, parse_timedelta
from distributed import Client, Security
from distributed.system import MEMORY_LIMIT
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from nipype_blm.errors import InputError, show
from nipype_blm.tasks.batch import BATCH_SYSTEMS, LOCAL, BatchSystem
from nipype_blm.units import GIB

# Of dask-jobqueue; `project` is another thing for some batch systems.
_RENAMED = {
    "worker_extra_args": "extra",
    "job_extra_directives": "job_extra",
    "job_script_prologue": "env_extra",
    "job_directives_skip": "header_skip",
    "account": "project",
}
_LISTS = {*_RENAMED, *_RENAMED.values(), "cancel_command_extra", "submit_command_extra"}
_LISTS -= {"account", "project"}
_SCALARS = (str, int, float, Path)


class Resources(NamedTuple):
    """What a node needs, or what a worker has."""

    n_procs: int
    mem_gb: float  # GiB, as Nipype counts

    def __str__(self) -> str:
        return f"n_procs={self.n_procs} and mem_gb={self.mem_gb:.3g}"

    def fit_into(self, worker: "Resources") -> bool:
        """Return whether a worker can run the node."""
        return self.n_procs <= worker.n_procs and self.mem_gb <= worker.mem_gb


def _parse_seconds(value: Any) -> Any:
    try:
        return parse_timedelta(value, "s")
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError("expected seconds, or a number with a unit such as '5 minutes'") from error


def _refuse_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


_MOST = 1_000_000  # no machine has more of anything
_NOT_A_SWITCH = BeforeValidator(_refuse_switch)
# The validators of one type run from right to left.
Seconds = Annotated[float, BeforeValidator(_parse_seconds), Field(gt=0), _NOT_A_SWITCH]
Count = Annotated[int, Field(ge=1, le=_MOST), _NOT_A_SWITCH]


class PoolOptions(BaseModel):
    """Where workers run, how many, and how long to wait for them."""

    model_config = ConfigDict(frozen=True, extra="allow", arbitrary_types_allowed=True)

    cluster: Any = Field(
        LOCAL,
        description="`local`, a batch system (`htcondor`, `lsf`, `moab`, `oar`, `pbs`, `sge`, "
        "`slurm`), or a Dask client or cluster that is there already.",
    )
    scheduler_file: Path | None = Field(
        None, description="File of a running pool (`nipype-blm pool start`), to be used."
    )
    allow_insecure: bool = Field(
        False,
        description="Also a `scheduler_file` that somebody else could have written, or a pool "
        "without TLS: see [security](security.md).",
    )
    n_workers: Count | None = Field(
        None,
        description="Most workers at a time; each runs one node.  Default: as many as "
        "`n_procs` allow with `local`, else 10.",
    )
    n_procs: Count | None = Field(
        None, description="`local`: cores of all workers together; default: all that there are."
    )
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False), _NOT_A_SWITCH] | None = Field(
        None, description="`local`: memory of all workers together, in GiB; default: 90 %."
    )
    adaptive: bool = Field(
        True,
        description="Batch systems: ask for workers as nodes wait for them, replace lost ones, "
        "give back idle ones.  Otherwise `n_workers` from the start.",
    )
    idle_timeout: Seconds = Field(
        60.0, description="An idle worker is given back after this time (seconds, or `5 minutes`)."
    )
    retries: Annotated[int, Field(ge=0, le=_MOST), _NOT_A_SWITCH] = Field(
        2,
        description="How often a node is run again after its worker was lost, or after an error of "
        "its machine or disk (stale file handle, input/output error, no space left, ...), after a "
        "pause; at least as often as Dask does (`allowed-failures`) where the cluster is there "
        "already.",
    )
    start_timeout: Seconds = Field(
        86400.0, description="The run ends if no worker has started for this time (24 h)."
    )
    stuck_timeout: Seconds = Field(
        60.0,
        description="... or if the batch system has said for this time that no job can start.",
    )
    lost_timeout: Seconds = Field(
        300.0,
        description="... or if the batch system has not answered for this time, and no worker is "
        "left.",
    )
    security: bool | Security = Field(
        True,
        description="Encrypt and authenticate all connections (TLS) with temporary credentials; "
        "or a `distributed.Security`; or false.",
    )
    dashboard_address: str | StrictInt | None = Field(
        None, description="Port of Dask's dashboard on localhost; none by default.  Needs bokeh."
    )
    log_directory: Path | None = Field(
        None,
        description="Folder for the logs of jobs; default: `dask_logs` in that of the workflow.",
    )
    status_callback: Any = Field(
        None, description='Called as (node, status) with "start", "end" or "exception".'
    )

    @property
    def job_options(self) -> dict[str, Any]:
        """Further arguments, of the cluster class of dask-jobqueue."""
        return dict(self.model_extra or {})

    @property
    def batch_system(self) -> BatchSystem | None:
        """The batch system that is asked for workers, if there is one."""
        if self.scheduler_file is not None or not isinstance(self.cluster, str):
            return None
        return BATCH_SYSTEMS.get(self.cluster)

    def get(self, option: str) -> Any:
        """Return an option of dask-jobqueue: as given, or from the user's jobqueue.yaml."""
        found = self._find(option)
        return self._find(_RENAMED[option]) if not found and option in _RENAMED else found

    def _find(self, option: str) -> Any:
        assert self.batch_system is not None
        given = self.job_options.get(option)
        if given is not None:
            return given
        section = f"jobqueue.{self.batch_system.name}"
        return dask.config.get(f"{section}.{option.replace('_', '-')}", None)

    @property
    def old_names(self) -> dict[str, str]:
        """Options that are given under a name of older versions of dask-jobqueue, and today's."""
        assert self.batch_system is not None
        known = _list_job_options(self.batch_system)
        return {old: new for new, old in _RENAMED.items() if new in known and self._find(old)}

    @property
    def cores(self) -> int:
        """Cores of a job."""
        if self.is_local:
            return self.n_procs or CPU_COUNT
        return int(self.get("cores"))

    @property
    def memory(self) -> int:
        """Memory of a job, in bytes."""
        if self.is_local:
            return int(self.memory_gb * GIB if self.memory_gb else 0.9 * MEMORY_LIMIT)
        return int(parse_bytes(self.get("memory")))

    @property
    def walltime(self) -> str | None:
        """Walltime of a job, as the batch system writes it."""
        found = None if self.is_local else self.get("walltime")
        return None if found is None else str(found)

    @property
    def has_default_walltime(self) -> bool:
        """Whether the walltime is dask-jobqueue's own, which nobody has chosen."""
        if self.walltime is None or self.job_options.get("walltime") is not None:
            return False
        name = f"jobqueue.{self.batch_system.name}.walltime" if self.batch_system else ""
        defaults = [dask.config.get(name, None, config={**found}) for found in dask.config.defaults]
        is_given = (
            dask.config.get(name, None, config=dask.config.collect(dask.config.paths)) is not None
        )
        return self.walltime in defaults and not is_given

    @property
    def is_local(self) -> bool:
        """Whether workers run on this machine."""
        return self.batch_system is not None and self.batch_system.name == LOCAL


def parse_options(plugin_args: Mapping[str, Any]) -> PoolOptions:
    """Check the arguments of the plugin.

    Raises
    ------
    InputError
        With all faults together.
    """
    if not isinstance(plugin_args, Mapping):
        raise InputError(
            f"The arguments of the plugin are {show(plugin_args)}, expected a mapping of names "
            "to values, such as {'cluster': 'slurm'}."
        )
    given = {str(name): value for name, value in plugin_args.items()}
    cluster = given.get("cluster", LOCAL)
    if isinstance(cluster, str):
        given["cluster"] = cluster.strip().lower()
    try:
        options = PoolOptions.model_validate(given)
    except ValidationError as error:
        faults = {fault["loc"][0]: fault for fault in reversed(error.errors())}  # one for each
        raise InputError(
            f"Plugin argument {name} is {show(fault['input'])}: "
            f"{fault['msg'].removeprefix('Value error, ')}."
            for name, fault in reversed(faults.items())
        ) from error
    problems = [*_check_cluster(options), *_check_names(options)]
    if not problems and options.batch_system:
        problems = _check_types(options, options.batch_system)
    if not problems and options.batch_system and not options.is_local:
        problems = _check_batch(options, options.batch_system)
    if not problems and options.batch_system:
        problems = _check_scheduler_options(options)
    if options.dashboard_address is not None:
        problems += _check_dashboard(str(options.dashboard_address))
    if problems:
        raise InputError(problems)
    return options


def count_processes(options: PoolOptions, largest: Resources) -> int:
    """Return how many workers share a job: as many as can run any node.

    Parameters
    ----------
    options : PoolOptions
        With a batch system.
    largest : Resources
        The most that any node needs.
    """
    given = options.n_workers if options.is_local else options.get("processes")
    if given is not None:
        return int(given)
    by_cores = options.cores // largest.n_procs
    if not largest.mem_gb:
        return max(1, by_cores)
    return max(1, min(by_cores, int(options.memory / GIB / largest.mem_gb)))


def describe_worker(options: PoolOptions, largest: Resources) -> Resources:
    """Return what one worker has; the parameters are those of `count_processes`."""
    n = count_processes(options, largest)
    return Resources(max(1, options.cores // n), options.memory / n / GIB)


def bind_locally(address: str | int) -> str:
    """Return an address on this machine: ``:46405`` is a port of localhost."""
    host, _, port = str(address).rpartition(":")
    return f"{host or 'localhost'}:{port}"


def _check_cluster(options: PoolOptions) -> list[str]:
    if isinstance(options.cluster, str) and options.cluster not in BATCH_SYSTEMS:
        valid = ", ".join(sorted(BATCH_SYSTEMS))
        return [f"{show(options.cluster)} is not a cluster type; choose one of {valid}."]
    if options.status_callback is not None and not callable(options.status_callback):
        return [f"status_callback is {show(options.status_callback)}, expected a function."]
    if getattr(options.cluster, "asynchronous", False):
        return [f"cluster is {options.cluster!r}, an asynchronous one; give one that is not."]
    is_ready = isinstance(options.cluster, Client) or hasattr(options.cluster, "scheduler_address")
    if not isinstance(options.cluster, str) and not is_ready and options.scheduler_file is None:
        return [
            f"cluster is {show(options.cluster)}, expected a name, or a Dask client or cluster."
        ]
    return []


def _check_names(options: PoolOptions) -> list[str]:
    """Return the arguments that nobody knows, each with the nearest known one."""
    known = set(PoolOptions.model_fields)
    if options.batch_system and not options.is_local:
        known |= _list_job_options(options.batch_system)
    problems = []
    for name in set(options.job_options) - known:
        near = sorted(key for key in known if key.startswith(name))
        near = near or difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
        problems.append(f"{show(name)} is not an argument of the plugin for this cluster; {hint}")
    return sorted(problems)


# What dask-jobqueue's classes hand to each other, or the plugin decides.
_OURS = {
    *("args", "asynchronous", "base_class_kwargs", "job_cls", "job_kwargs", "kwargs", "loop"),
    *("nanny", "protocol", "scheduler", "scheduler_cls", "scheduler_sync_interval", "self"),
    *("shutdown_on_close", "shutdown_scheduler", "worker", "worker_command", "workers"),
}


def _list_job_options(system: BatchSystem) -> set[str]:
    cluster_class = system.cluster_class
    return _list_arguments(cluster_class) | _list_arguments(cluster_class.job_cls)


def _list_arguments(cls: type) -> set[str]:
    makers = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    return {name for maker in makers for name in inspect.signature(maker).parameters} - _OURS


def _check_types(options: PoolOptions, system: BatchSystem) -> list[str]:
    """Return the options of dask-jobqueue of which no job script can be made."""
    problems = []
    for name in sorted(_list_job_options(system) - {"scheduler_options", "security"}):
        value = options._find(name)
        if name not in _LISTS:
            is_right, expected = isinstance(value, _SCALARS), "a text or a number"
        elif isinstance(value, Mapping) and name in ("job_extra", "job_extra_directives"):
            is_right, expected = system.name == "htcondor", "a list, one text an item"
        else:
            is_list = isinstance(value, list | tuple | set)
            is_right = is_list and all(isinstance(item, _SCALARS) for item in value)
            expected = "a list, one text an item"
        if not is_right and value not in (None, ""):
            problems.append(f"{name} is {show(value)}, expected {expected}.")
    return problems


def _try_job(options: PoolOptions, system: BatchSystem) -> list[str]:
    """Return what dask-jobqueue says where it makes no job script of the options."""
    job_class = system.cluster_class.job_cls
    names = _list_arguments(job_class) - {"log_directory", "name"}
    given = {name: value for name, value in options.job_options.items() if name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # It would make the folder of logs.
            job_class("tcp://localhost:1", name="job", log_directory=".", **given).job_script()
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        return [f"dask-jobqueue makes no job for {system.name} of these options: {error}."]
    return []


def _check_batch(options: PoolOptions, system: BatchSystem) -> list[str]:
    """Return what keeps workers from being asked for at all."""
    problems = []
    if shutil.which(system.submit_command) is None:
        problems.append(
            f"{system.submit_command}, which submits jobs to {system.name}, is not on the PATH of "
            "this machine; run where jobs can be submitted, or use cluster='local'."
        )
    missing = [name for name in ("cores", "memory") if options.get(name) is None]
    if missing:
        files = [path for folder in dask.config.paths for path in Path(folder).glob("*.y*ml")]
        problems.append(
            f"The section jobqueue.{system.name} of jobqueue.yaml has no {' and no '.join(missing)}"
            f" (of one job; configuration files found: "
            f"{', '.join(map(str, files)) or 'none'}); give cores and memory there or "
            "as arguments of the plugin."
        )
    for name, of_job in (("n_procs", "cores"), ("memory_gb", "memory")):
        if getattr(options, name) is not None:
            problems.append(f"{name} is for cluster='local'; with {system.name} give {of_job}.")
    problems += _check_sizes(options, system)
    return problems or _try_job(options, system)


def _check_sizes(options: PoolOptions, system: BatchSystem) -> list[str]:
    """Return which sizes of a job are none."""
    sizes: list[tuple[str, Callable[[Any], int], int, str]] = [
        ("cores", int, _MOST, "a number of at least 1"),
        ("processes", int, _MOST, "a number of at least 1"),
        ("memory", parse_bytes, _MOST * 1024 * GIB, "a size such as '4 GB'"),
    ]
    problems = []
    for name, parse, most, expected in sizes:
        value = options.get(name)
        if value is None:
            continue
        try:
            is_size = 1 <= parse(value) <= most
        except (TypeError, ValueError, AttributeError, OverflowError):
            is_size = False
        is_text = isinstance(value, str) and name != "memory"
        if not is_size or is_text or isinstance(value, bool):
            problems.append(f"{name} is {show(value)}, expected {expected}.")
    return problems + _check_walltime(options.get("walltime"), system)


def _check_walltime(walltime: Any, system: BatchSystem) -> list[str]:
    """Return what is wrong with a walltime; other batch systems write it differently."""
    if isinstance(walltime, int) and walltime >= 3600:
        return [
            f"walltime is {show(walltime)}, which is what YAML makes of a time such as 10:00:00; "
            "write it in quotes."
        ]
    is_time = isinstance(walltime, str) and re.fullmatch(r"\d+(:\d+)+", walltime.strip())
    is_none = isinstance(walltime, bool | float) or walltime == ""
    if is_none or (is_time and system.parse_walltime(walltime) is None):
        return [
            f"walltime is {show(walltime)}, expected what {system.name} takes, such as "
            f"'{system.ten_hours}' for ten hours."
        ]
    return []


def _check_scheduler_options(options: PoolOptions) -> list[str]:
    given = options.get("scheduler_options") or {}
    if not isinstance(given, Mapping):
        return [f"scheduler_options is {show(given)}, expected a mapping of names to values."]
    address = given.get("dashboard_address")
    return [] if address is None else _check_dashboard(str(address))


def _check_dashboard(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        is_local = host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if is_local and port.isdigit():
        return []
    return [
        f"dashboard_address is {show(address)}, but the dashboard asks nobody for a password; "
        "use a port of localhost, such as ':8787', and a tunnel of ssh to it."
    ]
