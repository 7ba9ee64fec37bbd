"""Run the workflow of a configuration with a plugin of Nipype."""

import errno
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nipype import logging as nipype_logging

from nipype_blm.cli.limits import explain_limit
from nipype_blm.cli.plugins import Runner, cancel_jobs
from nipype_blm.errors import InputError, Problem, unpack_problems
from nipype_blm.frontends.blm import Asked
from nipype_blm.frontends.traits import traits_of
from nipype_blm.interfaces.base import INPUT_ERROR
from nipype_blm.model.request import Request
from nipype_blm.private import open_plain
from nipype_blm.stages.assemble import NOTICES
from nipype_blm.stages.plan import PreparedRun
from nipype_blm.stages.remains import Remains
from nipype_blm.workflows import init_blm_wf, init_blmm_wf
from nipype_blm.workflows.blmm import INPUTS
from nipype_blm.workflows.stages import CHECKPOINTS, find_files


def find_logs(request: Request) -> Path:
    """Return the folder of messages and crash files."""
    return request.workflow_folder / "logs"


def find_remains(run: PreparedRun, request: Request) -> Remains:
    """Return what an earlier run has left of a run, and where its files go."""
    folder, spec = request.workflow_folder, run.spec
    products = find_files(folder, "products", spec.n_batches)
    return Remains(run, products, find_files(folder, "estimates", spec.n_blocks))


def tidy(request: Request, keep: str) -> None:
    """Remove the intermediate files that are not to be kept.

    The workflow itself has emptied those of images.  `hold_folders` removes a folder that is left
    empty.
    """
    checkpoints = request.workflow_folder / "products" / CHECKPOINTS  # of plans that were given up
    unneeded = {
        "nothing": [request.workflow_folder],
        # Statistics are made again in no time; a new contrast needs others.
        "contrasts": [request.workflow_folder / "contrasts", checkpoints],
        "all": [checkpoints],
    }
    for folder in unneeded[keep]:
        shutil.rmtree(folder, ignore_errors=True)


def run_workflow(
    asked: Asked, config_file: Path, runner: Runner, parallel_nodes: int, keep: str = "all"
) -> None:
    """Run a configuration in its working folder.

    The file that it was read from is never rewritten, even if it is the inputs.yml of an
    earlier run.
    """
    request, fields = asked
    given = traits_of(fields)
    inputs = {field: given.pop(field) for field in INPUTS if field in given}
    plain = fields.plain()
    recorded = ("out_dir", "work_dir", "keep", "cluster", "n_threads", "n_workers", "quiet")
    given["recorded_fields"] = {field: plain[field] for field in recorded if field in plain}
    init_wf = init_blmm_wf if request.is_mixed else init_blm_wf
    inputs_file = request.out_dir / "inputs.yml"
    workflow = init_wf(
        out_dir=request.out_dir,
        copy_inputs=os.path.realpath(config_file) != os.path.realpath(inputs_file),
        n_procs=runner.n_procs,
        mem_gb=runner.mem_gb,
        parallel_nodes=parallel_nodes,
        keep="contrasts" if keep == "contrasts" else "all",
        name=request.workflow_folder.name,
        **given,
    )
    # The command itself tells of a result without any voxel, below what it has counted.
    workflow.get_node("assemble").inputs.allow_empty = True
    for field, value in inputs.items():
        setattr(workflow.inputs.inputnode, field, value)
    # Private: what Nipype pickles there is read again, as a program is.
    request.workflow_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    logs = find_logs(request)
    logs.mkdir(exist_ok=True)
    workflow.base_dir = str(request.work_folder)
    workflow.config["execution"] |= {"crashdump_dir": str(logs), "stop_on_first_crash": "true"}
    for path in _find_reports(request):  # of nodes of an earlier run
        path.unlink(missing_ok=True)
    if runner.polls_cheaply:
        workflow.config["execution"]["poll_sleep_duration"] = "0.1"
    with _messages_to_file(logs):
        try:
            workflow.run(plugin=runner.plugin)
        except BaseException:
            cancel_jobs(runner.plugin, request.workflow_folder)
            raise


@contextmanager
def _messages_to_file(logs: Path) -> Iterator[None]:
    """Send Nipype's messages to a file instead of the terminal, and our warnings to both."""
    ours = logging.getLogger("nipype_blm")
    to_terminal = logging.StreamHandler()  # as without any handler
    # The command has said some of them, and a node may run where nobody reads its log: others are
    # said when all is done.
    to_terminal.addFilter(lambda record: record.name != NOTICES)
    loggers = [nipype_logging.getLogger(name) for name in nipype_logging.loggers]
    file = open(logs / "nipype.log", "a", encoding="utf-8", opener=open_plain)  # noqa: SIM115
    to_file = logging.StreamHandler(file)
    to_file.setFormatter(logging.Formatter(nipype_logging.fmt, nipype_logging.datefmt))
    terminal = {handler: handler.level for handler in logging.getLogger("nipype").handlers}
    raise_exceptions = logging.raiseExceptions
    try:
        logging.raiseExceptions = False  # a full disk: the run itself reports it
        for handler in terminal:
            handler.setLevel(logging.CRITICAL)
        for logger in loggers:
            logger.addHandler(to_file)
        for handler in (to_file, to_terminal):
            ours.addHandler(handler)
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(to_file)
        for handler in (to_file, to_terminal):
            ours.removeHandler(handler)
        for handler, level in terminal.items():
            handler.setLevel(level)
        to_file.close()
        with suppress(OSError):  # of a full disk: the messages are lost, and nothing else
            file.close()
        logging.raiseExceptions = raise_exceptions


def find_input_error(error: BaseException, request: Request) -> list[Problem]:
    """Return the problems of an InputError, or those that failed nodes have left of theirs."""
    if isinstance(error, InputError):
        return error.problems
    found: list[Problem] = []
    for path in _find_reports(request):
        with suppress(OSError, ValueError):
            found += unpack_problems(path.read_bytes())
    return list(dict.fromkeys(found))


def _find_reports(request: Request) -> list[Path]:
    """Return what nodes have left whose input could not be used."""
    folder = request.workflow_folder
    nodes = (f"*/{INPUT_ERROR}", f"*/mapflow/*/{INPUT_ERROR}")
    return sorted(path for pattern in nodes for path in folder.glob(pattern))


# What Nipype's plugins for batch systems raise where they lose sight of a job.
_LOST_SIGHT = {
    'can only concatenate str (not "list") to str': "a job was lost: cancelled, or ended for its "
    "memory or time; the batch system's records of ended jobs tell which",
    "list index out of range": "the batch system refused a job; submit the newest batchscript_*.sh "
    "below the folder of intermediate files by hand, to see why",
    "'NoneType' object has no attribute 'groups'": "the last line of what sbatch or qsub printed "
    "does not name the job, which may be left in the queue; a cluster in the configuration, "
    "without --plugin, finds the number wherever it stands",
}


_MOST_LINES = 15
# What Nipype adds to the text of an error when it writes a crash file.
_NOTE_OF_NIPYPE = re.compile(r"\n\s*(?:When creating|During the creation of) this crashfile")
_DISK_IS_FULL = re.compile(
    rf"(\[Errno (?:{errno.ENOSPC}|{errno.EDQUOT})\] [^\n:]*(?:: (['\"])([^\n]*?)\2)?)"
)


def _find_last_exception(text: str) -> str:
    """Return all lines of the last exception in the text of a failure of Nipype.

    It is below the last traceback, however deep that is quoted.  A text without any is a message
    itself.
    """
    text = _NOTE_OF_NIPYPE.split(text)[0].strip()
    _, found, traceback = text.rpartition("Traceback (most recent call last):\n")
    if not found:
        return "\n".join(text.splitlines()[-_MOST_LINES:])
    margin = re.match(r"[ \t]*?(?=  )", traceback)  # its own lines begin two spaces further right
    own = re.compile(re.escape(margin[0] if margin else "") + r"\S")
    lines = list(itertools.dropwhile(lambda line: not own.match(line), traceback.splitlines()))
    message = itertools.takewhile(str.strip, lines)
    return "\n".join(line.strip() for line in message)


def _find_full_disk(request: Request, reason: str, path: Path) -> str:
    """Return the folder of a file, if one is named; else the one with less space, or both."""
    folders = (request.work_folder, request.out_dir)
    if path.name:
        near = (folder for folder in folders if path.is_relative_to(folder))
        return str(next(near, path.parent))
    with suppress(OSError):
        # Of a quota a disk does not know.
        if str(errno.EDQUOT) not in reason and len({path.stat().st_dev for path in folders}) > 1:
            return str(min(folders, key=lambda path: shutil.disk_usage(path).free))
    return f"{folders[0]} or {folders[1]}"


def describe_failure(error: BaseException, request: Request, plugin: str | None = None) -> str:
    """Return the last exception of what Nipype reports, and where more can be read."""
    text = _NOTE_OF_NIPYPE.split(f"{type(error).__name__}: {error}")[0]
    _, found, lost = text.rpartition("PoolError: ")
    if found:
        return f"{lost.strip()}\nThe same command goes on from where it was."
    reason = _find_last_exception(str(error)) or type(error).__name__
    if reason == "KeyboardInterrupt":
        return reason
    full = _DISK_IS_FULL.findall(text)
    if full:
        whole, _, path = full[-1]
        folder = _find_full_disk(request, whole, Path(path))
        return f"The disk of {folder} is full ({whole}); free some space and run again."
    limit = explain_limit(reason)
    if limit is not None:
        reason = f"{reason}: {limit}"
    if plugin in ("SLURM", "SGE") and reason in _LOST_SIGHT:
        reason = f"{type(error).__name__}: {reason}\nMost likely {_LOST_SIGHT[reason]}."
    return f"{reason}\nThe run failed; its messages are in {find_logs(request)}."
