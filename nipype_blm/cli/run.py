"""Build the workflow of a configuration, and run one with a plugin of Nipype."""

import errno
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from nipype import logging as nipype_logging
from nipype.pipeline.engine import Workflow

from nipype_blm.cli.command import GOES_ON
from nipype_blm.cli.limits import explain_limit
from nipype_blm.cli.plugins import Runner, cancel_jobs
from nipype_blm.errors import InputError, Problem, unpack_problems
from nipype_blm.interfaces.base import INPUT_ERROR
from nipype_blm.interfaces.blm import write_plan_files
from nipype_blm.model.request import Request
from nipype_blm.private import open_plain
from nipype_blm.stages.assemble import NOTICES
from nipype_blm.stages.growth import EarlierPlaces
from nipype_blm.stages.plan import PreparedRun
from nipype_blm.stages.remains import Remains
from nipype_blm.workflows.blm import BLM
from nipype_blm.workflows.blmm import BLMM
from nipype_blm.workflows.parameters import Parameters
from nipype_blm.workflows.stages import connect_stages, find_files, hold_plan


class Places(NamedTuple):
    """Where what is no model works and writes; a request knows the same of its run."""

    out_dir: Path
    work_folder: Path
    workflow_folder: Path


Folders = Request | Places


def find_logs(folders: Folders) -> Path:
    """Return the folder of messages and crash files."""
    return folders.workflow_folder / "logs"


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
    # Checkpoints and products of plans that were given up.
    places = EarlierPlaces.of_workflow(request.workflow_folder)
    unneeded = {
        "nothing": [request.workflow_folder],
        # Statistics are made again in no time; a new contrast needs others.
        "contrasts": [request.workflow_folder / "contrasts", places.aside, places.tiles],
        "all": [places.aside],
        "tiles": [places.aside],
    }
    for folder in unneeded[keep]:
        shutil.rmtree(folder, ignore_errors=True)


def build_workflow(
    request: Request,
    keep: str = "all",
    run: PreparedRun | None = None,
    runner: Runner | None = None,
) -> Workflow:
    """Write the plan of a run into its folder, and build the workflow of all that follows.

    Parameters
    ----------
    request : Request
        A file that it was read from is never rewritten, even if it is the inputs.yml of an earlier
        run.
    keep : str
        Intermediate files that stay.
    run, runner : optional
        Without them nothing is written, and the workflow is there to be drawn.
    """
    read = {os.path.realpath(path) for path in request.files if path is not None}
    is_own = os.path.realpath(request.out_dir / "inputs.yml") in read
    parameters = Parameters(
        out_dir=request.out_dir,
        n_procs=1 if runner is None else runner.n_procs,
        mem_gb=None if runner is None else runner.mem_gb,
        compress=request.compress,
        overwrite=request.overwrite,
        # The command itself tells of a result without any voxel, below what it has counted.
        allow_empty=True,
        copy_inputs=bool(request.record) and not is_own,
        keep="all" if keep == "nothing" else keep,
        name=request.workflow_folder.name,
    )
    outputs = {}
    if run is not None:
        _make_folder(request)
        aside = EarlierPlaces.of_workflow(request.workflow_folder).aside
        outputs = write_plan_files(run, request, request.plan_folder, aside)
    return connect_stages(BLMM if request.is_mixed else BLM, hold_plan(**outputs), parameters)


def _make_folder(folders: Folders) -> None:
    """Make the folder of the nodes, private: what Nipype pickles there is read as a program."""
    folders.workflow_folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def run_workflow(workflow: Workflow, folders: Folders, runner: Runner) -> Any:
    """Run a workflow in its working folder; return its nodes as they ran."""
    _make_folder(folders)
    logs = find_logs(folders)
    logs.mkdir(exist_ok=True)
    workflow.base_dir = str(folders.work_folder)
    workflow.config["execution"] |= {"crashdump_dir": str(logs), "stop_on_first_crash": "true"}
    for path in _find_reports(folders):  # of nodes of an earlier run
        path.unlink(missing_ok=True)
    if runner.polls_cheaply:
        workflow.config["execution"]["poll_sleep_duration"] = "0.1"
    with _messages_to_file(logs):
        try:
            return workflow.run(plugin=runner.plugin)
        except BaseException:
            cancel_jobs(runner.plugin, folders.workflow_folder)
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


def find_input_error(error: BaseException, folders: Folders) -> list[Problem]:
    """Return the problems of an InputError, or those that failed nodes have left of theirs."""
    if isinstance(error, InputError):
        return error.problems
    found: list[Problem] = []
    for path in _find_reports(folders):
        with suppress(OSError, ValueError):
            found += unpack_problems(path.read_bytes())
    return list(dict.fromkeys(found))


def _find_reports(folders: Folders) -> list[Path]:
    """Return what nodes have left whose input could not be used."""
    nodes = (f"*/{INPUT_ERROR}", f"*/mapflow/*/{INPUT_ERROR}")
    return sorted(path for pattern in nodes for path in folders.workflow_folder.glob(pattern))


def raise_or_describe(error: Exception, folders: Folders, plugin: str | None) -> str:
    """Return why a workflow failed; what has a name of its own is raised under that.

    Raises
    ------
    InputError
        If a node found that input cannot be used.
    KeyboardInterrupt
        If Nipype reports one in other words.
    """
    problems = find_input_error(error, folders)
    if problems:
        raise InputError(problems) from error
    reason = describe_failure(error, folders, plugin)
    if reason == "KeyboardInterrupt":
        raise KeyboardInterrupt from error
    return reason


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
# The messages of our own errors are for users; Python writes whose they are before them.
_OURS = re.compile(r"\Anipype_blm(?:\.\w+)+: ")
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


def _find_full_disk(places: Folders, reason: str, path: Path) -> str:
    """Return the folder of a file, if one is named; else the one with less space, or both."""
    folders = (places.work_folder, places.out_dir)
    if path.name:
        near = (folder for folder in folders if path.is_relative_to(folder))
        return str(next(near, path.parent))
    with suppress(OSError):
        # Of a quota a disk does not know.
        if str(errno.EDQUOT) not in reason and len({path.stat().st_dev for path in folders}) > 1:
            return str(min(folders, key=lambda path: shutil.disk_usage(path).free))
    return f"{folders[0]} or {folders[1]}"


def describe_failure(error: BaseException, folders: Folders, plugin: str | None = None) -> str:
    """Return the last exception of what Nipype reports, and where more can be read."""
    text = _NOTE_OF_NIPYPE.split(f"{type(error).__name__}: {error}")[0]
    _, found, lost = text.rpartition("PoolError: ")
    if found:
        return f"{lost.strip()}\n{GOES_ON}"
    reason = _OURS.sub("", _find_last_exception(str(error))) or type(error).__name__
    if reason == "KeyboardInterrupt":
        return reason
    full = _DISK_IS_FULL.findall(text)
    if full:
        whole, _, path = full[-1]
        folder = _find_full_disk(folders, whole, Path(path))
        return f"The disk of {folder} is full ({whole}); free some space and run again."
    limit = explain_limit(reason)
    if limit is not None:
        reason = f"{reason}: {limit}"
    if plugin in ("SLURM", "SGE") and reason in _LOST_SIGHT:
        reason = f"{type(error).__name__}: {reason}\nMost likely {_LOST_SIGHT[reason]}."
    return f"{reason}\nThe run failed; its messages are in {find_logs(folders)}."
