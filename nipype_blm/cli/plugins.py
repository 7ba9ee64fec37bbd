"""Which plugin runs the nodes, and what each node may use."""

import difflib
import getpass
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nipype_blm.cli.progress import NodeCallback
from nipype_blm.errors import InputError, Problem
from nipype_blm.io.yamlfile import read_yaml
from nipype_blm.machine import count_cores
from nipype_blm.model.planning import Plan
from nipype_blm.model.request import Request
from nipype_blm.units import GIB

LINEAR, DASK = "Linear", "Dask"
_PATHS = {"scheduler_file", "log_directory"}


class Runner(NamedTuple):
    """A plugin of Nipype, and what it offers each node."""

    plugin: Any
    n_procs: int  # threads of a node
    mem_gb: float  # what a node that computes asks for, in GiB

    @property
    def polls_cheaply(self) -> bool:
        """Whether it may look for ended nodes often; others ask the scheduler each time."""
        return type(self.plugin).__name__ == "MultiProcPlugin"


def count_parallel_nodes(request: Request, name: str | None) -> int:
    """Return how many nodes run at the same time with a plugin."""
    if name in (None, LINEAR) or request.cluster != "local":
        return request.parallel_nodes
    return request.n_threads or count_cores()


def choose_runner(
    request: Request,
    plan: Plan,
    name: str | None,
    args_file: Path | None,
    callback: NodeCallback | None = None,
    log_folder: Path | None = None,
    pool: Path | None = None,
) -> Runner:
    """Return what runs a configuration.

    Parameters
    ----------
    request : Request
        Its `cluster`, `n_threads` and `n_workers` count where the other arguments say nothing.
    plan : Plan
    name : str or None
        A plugin of Nipype, or ``Dask``.
    args_file : Path or None
        YAML with the arguments of the plugin.
    callback : callable, optional
        Called as (node, status) when a node starts or ends.
    log_folder : Path, optional
        For the logs of jobs.
    pool : Path, optional
        File of the running pool that ``Dask`` is to use.

    Raises
    ------
    InputError
        If the plugin or an argument of it is not known, or a node does not fit into a worker.
    """
    given = _read_given(args_file, pool)
    if name is None:
        name = LINEAR if request.cluster == "local" else DASK
    if name == LINEAR and given:
        raise _refuse_arguments(args_file, ", or a {cluster} in the configuration")
    if callback is not None:
        given["status_callback"] = callback
    if name.lower() == DASK.lower():
        return _make_dask_runner(request, plan, given, log_folder)
    n_procs = 1
    if name == LINEAR:
        n_procs = min(request.n_threads or count_cores(), count_cores())
    elif request.n_threads is not None and name == "MultiProc":
        given.setdefault("n_procs", request.n_threads)
    plugin = _make_stock_plugin(name, given, request.workflow_folder)
    return Runner(plugin, n_procs, _measure_memory(plan, n_procs, request.max_bytes))


def choose_node_runner(
    name: str,
    args_file: Path | None,
    pool: Path | None,
    folder: Path,
    defaults: Mapping[str, Any] | None = None,
    callback: NodeCallback | None = None,
) -> Runner:
    """Return what runs a workflow that is no model's, in a folder.

    Parameters
    ----------
    name, args_file, pool
        As of `choose_runner`.
    folder : Path
        Of the workflow.
    defaults : mapping, optional
        Arguments of ``Dask`` where the user gives none.
    callback : callable, optional
        Called as (node, status) when a node starts or ends.

    Raises
    ------
    InputError
        If the plugin or an argument of it is not known.
    """
    given = _read_given(args_file, pool)
    if name == LINEAR and given:
        raise _refuse_arguments(args_file)
    if callback is not None:
        given["status_callback"] = callback
    if name.lower() == DASK.lower():
        return Runner(_make_dask_plugin(dict(defaults or {}) | given), 1, 1.0)
    return Runner(_make_stock_plugin(name, given, folder), 1, 1.0)


def _refuse_arguments(args_file: Path | None, other_way: str = "") -> InputError:
    template = (
        f"--plugin-args {{file}}: {LINEAR}, which runs here, takes no arguments; name a plugin "
        f"with --plugin, such as {DASK}{other_way}."
    )
    return InputError(Problem("cluster", template, file=args_file))


def _read_given(args_file: Path | None, pool: Path | None) -> dict[str, Any]:
    return read_arguments(args_file) if pool is None else {"scheduler_file": pool}


def _make_stock_plugin(name: str, given: dict[str, Any], folder: Path) -> Any:
    """Return a plugin of Nipype."""
    plugin_class = _find_plugin(name)
    os.environ.setdefault("LOGNAME", _find_user_name())  # Nipype fails without
    if name == "SLURM":
        given.setdefault("jobid_re", _JOB_ID)
    _check_stock(name, given, folder)
    try:
        plugin = plugin_class(plugin_args=given)
    except (TypeError, ValueError) as error:
        shown = {key: value for key, value in given.items() if key != "status_callback"}
        raise InputError(
            f"--plugin {name} does not take the arguments {shown}: {error}."
        ) from error
    plugin.plugin_args.pop("status_callback", None)  # it has it; MapNodes are pickled with the rest
    return plugin


def cancel_jobs(plugin: Any, folder: Path) -> None:
    """Cancel what a plugin of Nipype leaves in the queue when it is interrupted.

    Parameters
    ----------
    plugin : object
    folder : Path
        Of the workflow, where the scripts of its jobs are.
    """
    from nipype.pipeline.plugins import SGEPlugin, SLURMPlugin

    from nipype_blm.tasks.batch import BATCH_SYSTEMS

    systems = {SLURMPlugin: "slurm", SGEPlugin: "sge"}
    if type(plugin) in systems:
        system = BATCH_SYSTEMS[systems[type(plugin)]]
        # Nipype does not know of the one that it was submitting.
        jobs = {str(job_id) for job_id in plugin._pending} | system.find_jobs(folder)
        system.cancel(sorted(jobs))


def read_arguments(path: Path | None) -> dict[str, Any]:
    """Read the arguments of a plugin from YAML; none without a file."""
    if path is None:
        return {}
    data = read_yaml(path.absolute(), "--plugin-args")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(
            f"{path} holds {type(data).__name__}, expected the arguments of a plugin, one "
            "`name: value` a line."
        )
    arguments = {str(name): value for name, value in data.items()}
    for name in _PATHS & set(arguments):  # relative to the file that names them
        arguments[name] = Path(path.absolute().parent, str(arguments[name])).expanduser()
    return arguments


def _make_dask_runner(
    request: Request, plan: Plan, given: Mapping[str, Any], log_folder: Path | None
) -> Runner:
    from nipype_blm.tasks.options import Resources, describe_worker

    arguments: dict[str, Any] = {"cluster": request.cluster}
    if request.n_threads is not None or request.cluster != "local":
        arguments["n_workers"] = count_parallel_nodes(request, DASK)
    if log_folder is not None:
        arguments["log_directory"] = log_folder
    plugin = _make_dask_plugin(arguments | dict(given))
    mem_gb = _measure_memory(plan, 1, request.max_bytes)
    if plugin.options.batch_system is None:  # a pool that is there already
        return Runner(plugin, 1, mem_gb)
    worker = describe_worker(plugin.options, Resources(1, mem_gb))
    if worker.mem_gb < mem_gb:
        n_workers = plugin.options.n_workers if plugin.options.is_local else None
        sharing = f" (that of this machine is shared by {n_workers})" if n_workers else ""
        raise InputError(
            Problem(
                "max_bytes",
                f"A worker has {worker.mem_gb:.3g} GiB of memory, but one batch or block needs "
                f"{mem_gb:.3g} GiB; give workers more memory{sharing}, or set {{max_bytes}} (now "
                f"{request.max_bytes / GIB:.3g} GiB) to {{most:budget}} or less.",
                most=int(worker.mem_gb * GIB),
            )
        )
    n_procs = plan.threads(worker.n_procs, int(worker.mem_gb * GIB))
    return Runner(plugin, n_procs, _measure_memory(plan, n_procs, request.max_bytes))


def _make_dask_plugin(arguments: dict[str, Any]) -> Any:
    """Return a plugin whose pool, if it is one that runs already, has a file that can be read."""
    from nipype_blm.plugins import DaskPlugin
    from nipype_blm.tasks.poolfile import read_pool_file

    plugin = DaskPlugin(arguments)
    options = plugin.options
    if options.scheduler_file is not None:
        read_pool_file(options.scheduler_file, options.allow_insecure)
    return plugin


def _measure_memory(plan: Plan, n_threads: int, max_bytes: int) -> float:
    """Return what a node uses, in GiB; no more threads read than memory permits."""
    return plan.node_bytes(plan.threads(n_threads, max_bytes)) / GIB


# What submits the jobs of a plugin of Nipype, and the arguments that plugins take.
_SUBMITS = {"SLURM": "sbatch", "SGE": "qsub", "PBS": "qsub", "LSF": "bsub", "OAR": "oarsub"}
# The sbatch of some sites says the number alone.
_JOB_ID = r"(?:Submitted batch job |(?=[0-9]+(?:;\S+)?\s*$))([0-9]+)"
_STOCK_ARGUMENTS = {
    *("bsub_args", "dont_resubmit_completed_jobs", "jobid_re", "max_jobname_len", "max_jobs"),
    *("max_tries", "maxtasksperchild", "memory_gb", "mp_context", "n_gpu_procs", "n_procs"),
    *("non_daemon", "oarsub_args", "overwrite", "qsub_args", "raise_insufficient"),
    *("retry_timeout", "sbatch_args", "scheduler", "status_callback", "template"),
}


# What Nipype puts into the commands that submit jobs as it is; of Grid Engine's own options, a
# colon ends a host, and a comma a path.
_NOT_IN_COMMANDS = {"SGE": r"[^\w./+@%=~-]", "PBS": r"[^\w./+@%=~-]"}


def _check_stock(name: str, given: Mapping[str, Any], folder: Path) -> None:
    """Refuse what Nipype's own plugins would find out late, or never."""
    problems: list[str] = []
    command = _SUBMITS.get(name)
    if command is not None and shutil.which(command) is None:
        problems.append(
            f"{command}, which submits the jobs of --plugin {name}, is not on the PATH of this "
            "machine; run where jobs can be submitted."
        )
    found = re.search(_NOT_IN_COMMANDS.get(name, r"[^\w./+@%=:,~-]"), str(folder))
    if command is not None and found:
        what = "a space" if found[0] == " " else "{character}"
        problems.append(
            Problem(
                "work_dir",
                f"The folder for intermediate files, {{folder}}, has {what} in its path, which "
                f"Nipype's --plugin {name} cannot hand to {command}; choose another {{work_dir}}, "
                f"or --plugin {DASK}, which can.",
                folder=folder,
                character=repr(found[0]),
            )
        )
    for argument in set(given) - _STOCK_ARGUMENTS:
        near = difflib.get_close_matches(argument, _STOCK_ARGUMENTS, 1, cutoff=0.8)
        if near:  # others there may be, in versions of Nipype to come
            problems.append(
                f"--plugin {name} has no argument {argument!r}; did you mean {near[0]}?"
            )
    if problems:
        raise InputError(problems)


def _find_user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, most often
        return str(os.getuid())


def _find_plugin(name: str) -> Any:
    """Return a class of Nipype by the name of its plugin."""
    from nipype.pipeline import plugins
    from nipype.pipeline.plugins.base import GraphPluginBase

    end = "Plugin"
    known = {key.removesuffix(end): found for key, found in vars(plugins).items() if end in key}
    usable = {key: found for key, found in known.items() if not issubclass(found, GraphPluginBase)}
    if name in usable:
        return usable[name]
    valid = f"choose one of {', '.join(sorted([DASK, *usable]))}"
    if name in known:
        raise InputError(f"--plugin {name} returns before its jobs have run; {valid}.")
    near = difflib.get_close_matches(name, [DASK, *usable], 1)
    hint = f"did you mean {near[0]}?  Or {valid}" if near else valid
    raise InputError(f"--plugin {name} is not a plugin of Nipype; {hint}.")
