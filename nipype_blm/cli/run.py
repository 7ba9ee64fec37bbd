"""Run the workflow of a configuration on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nipype import config as nipype_config
from nipype import logging as nipype_logging

from nipype_blm.interfaces.base import GIB, traits_from_config
from nipype_blm.model.config import BlmConfig
from nipype_blm.workflows.blm import INPUTS, init_blm_wf


def count_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


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
    given["max_mem_gb"] = config.MAXMEM / GIB
    workflow = init_blm_wf(
        out_dir=config.outdir, n_procs=min(config.numNodes or cores, cores), name=name, **given
    )
    for field, value in inputs.items():
        setattr(workflow.inputs.inputnode, field, value)
    config.work_folder.mkdir(parents=True, exist_ok=True)
    workflow.base_dir = str(config.work_folder)
    with _messages_to_file(config.work_folder / "logs"):
        workflow.run(plugin="Linear")


@contextmanager
def _messages_to_file(logs: Path) -> Iterator[None]:
    """Send Nipype's messages and crash files to a folder instead of the terminal."""
    settings = {
        "logging": {"log_to_file": "true", "log_directory": str(logs)},
        "execution": {"crashdump_dir": str(logs), "stop_on_first_crash": "true"},
    }
    before = {
        section: {name: nipype_config.get(section, name) for name in names}
        for section, names in settings.items()
    }
    logs.mkdir(exist_ok=True)
    terminal = {handler: handler.level for handler in logging.getLogger("nipype").handlers}
    nipype_config.update_config(settings)
    nipype_logging.update_logging(nipype_config)
    to_file = list(nipype_logging.getLogger("nipype.workflow").handlers)
    try:
        for handler in terminal:
            handler.setLevel(logging.CRITICAL)
        yield
    finally:
        for handler, level in terminal.items():
            handler.setLevel(level)
        _restore(before)
        nipype_logging.update_logging(nipype_config)
        for handler in to_file:
            handler.close()


def _restore(settings: dict[str, dict[str, str | None]]) -> None:
    """Give settings of Nipype the values they had; None where there was none."""
    for section, values in settings.items():
        for name, value in values.items():
            if value is None:
                nipype_config._config.remove_option(section, name)
            else:
                nipype_config.set(section, name, value)


def find_input_error(error: BaseException) -> list[str]:
    """Return the problems of an InputError that a node reported as text."""
    _, name, message = str(error).rpartition("nipype_blm.errors.InputError: ")
    lines = message.split("\n\n")[0].splitlines() if name else []
    return [line.strip() for line in lines if line.strip()]
