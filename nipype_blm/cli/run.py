"""Run the workflow of a configuration on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nipype import logging as nipype_logging

from nipype_blm.interfaces.base import traits_from_config
from nipype_blm.model.config import BlmConfig
from nipype_blm.workflows.blm import INPUTS, init_blm_wf


def count_cores() -> int:
    """Return the cores that this process may use; not every system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_workflow(config: BlmConfig, name: str) -> None:
    """Run a configuration with Nipype's Linear plugin, in its working folder."""
    given = traits_from_config(config)
    inputs = {field: given.pop(field) for field in INPUTS if field in given}
    recorded = config.to_yaml_dict()
    given["options"] = {
        field: recorded[field]
        for field in ("outdir", "work_dir", "clusterType", "numNodes", "sim")
        if field in recorded
    }
    cores = count_cores()
    workflow = init_blm_wf(
        out_dir=config.outdir, n_procs=min(config.numNodes or cores, cores), name=name, **given
    )
    for field, value in inputs.items():
        setattr(workflow.inputs.inputnode, field, value)
    logs = config.work_folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workflow.base_dir = str(config.work_folder)
    workflow.config["execution"] |= {"crashdump_dir": str(logs), "stop_on_first_crash": "true"}
    with _messages_to_file(logs):
        workflow.run(plugin="Linear")


@contextmanager
def _messages_to_file(logs: Path) -> Iterator[None]:
    """Send Nipype's messages to a file instead of the terminal."""
    loggers = [nipype_logging.getLogger(name) for name in nipype_logging.loggers]
    to_file = logging.FileHandler(logs / "nipype.log")
    to_file.setFormatter(logging.Formatter(nipype_logging.fmt, nipype_logging.datefmt))
    terminal = {handler: handler.level for handler in logging.getLogger("nipype").handlers}
    try:
        for handler in terminal:
            handler.setLevel(logging.CRITICAL)
        for logger in loggers:
            logger.addHandler(to_file)
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(to_file)
        for handler, level in terminal.items():
            handler.setLevel(level)
        to_file.close()


def find_input_error(error: BaseException) -> list[str]:
    """Return the problems of an InputError that a node reported as text."""
    _, name, message = str(error).rpartition("nipype_blm.errors.InputError: ")
    lines = message.split("\n\n")[0].splitlines() if name else []
    return [line.strip() for line in lines if line.strip()]
