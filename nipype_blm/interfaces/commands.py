"""A list of shell commands as one node."""

from pathlib import Path
from typing import Any, ClassVar

from nipype.interfaces.base import Directory, File, TraitedSpec, traits

from nipype_blm.interfaces.base import (
    BLMInterface,
    PoolInputSpec,
    defined_traits,
    find_plugin_args,
)

_HOW = ("retries", "timeout_s", "max_failures", "done_glob", "keep_logs")


class _CommandBatchInputSpec(PoolInputSpec):
    commands_file = File(
        exists=True,
        mandatory=True,
        xor=["commands"],
        desc="text file of shell commands, one a line; empty lines and those with # are left out",
    )
    commands = traits.List(
        traits.Str, mandatory=True, xor=["commands_file"], desc="the same as a list"
    )
    out_dir = Directory(
        desc="folder for journal, table and logs, from which a run that was killed goes on; "
        "default: commands in the working directory, which Nipype empties before a node runs again"
    )
    cwd = Directory(exists=True, desc="where commands run; default: the working directory")
    environ = traits.Dict(
        traits.Str,
        traits.Str,
        nohash=True,
        desc="variables of the commands, besides the environment of the process that runs them",
    )
    n_procs = traits.Range(
        low=1,
        value=1,
        usedefault=True,
        nohash=True,
        desc="commands that run side by side on this machine",
    )
    retries = traits.Range(
        low=0, value=0, usedefault=True, desc="how often a command that failed is run again"
    )
    timeout_s = traits.Range(
        low=0.0, exclude_low=True, desc="seconds after which a command is ended"
    )
    max_failures = traits.Range(low=0, desc="nothing new starts when more have failed")
    done_glob = traits.Str(
        desc="pattern of the product of a command, which is done if that exists; {3} is word 3 of "
        "the command, 0 its program"
    )
    keep_logs = traits.Bool(
        False, usedefault=True, desc="keep what commands print that end well, too"
    )


class _CommandBatchOutputSpec(TraitedSpec):
    table = File(exists=True, desc="a row for each command: return code, host, seconds, ...")
    journal = File(exists=True, desc="JSON lines: each start and each end of a command")
    failed_commands = File(desc="list of those that failed; not there if none has")
    n_done = traits.Int(desc="commands that are done")


class CommandBatch(BLMInterface):
    """Run a list of shell commands, side by side or on a pool, each until it is done.

    Raises an error in the end if any has failed, which tells how many and what the first ones said.

    Examples
    --------
    >>> from nipype_blm.interfaces.commands import CommandBatch
    >>> batch = CommandBatch(commands=["echo one", "echo two"], n_procs=2)
    >>> batch.run().outputs.n_done  # doctest: +SKIP
    2
    """

    input_spec = _CommandBatchInputSpec
    output_spec = _CommandBatchOutputSpec
    _references: ClassVar = []

    def _run_interface(self, runtime: Any) -> Any:
        from nipype_blm.stages.commands import holding, run_command_list
        from nipype_blm.tasks.commandlist import number_commands, read_commands
        from nipype_blm.tasks.commands import check_list
        from nipype_blm.tasks.performing import Settings

        given = defined_traits(self.inputs)
        if "commands_file" in given:
            commands = read_commands(Path(given["commands_file"]))
        else:
            commands = number_commands(given["commands"])
        settings = Settings(
            cwd=str(Path(runtime.cwd, given.get("cwd", "")).absolute()),
            env=given.get("environ", {}),
            **{name: given[name] for name in _HOW if name in given},
        )
        check_list(commands, settings)
        plugin_args = find_plugin_args(given)
        out_dir = Path(runtime.cwd, given.get("out_dir", "commands")).absolute()
        with holding(out_dir, "out_dir"):
            summary = run_command_list(commands, out_dir, settings, given["n_procs"], plugin_args)
        summary.check()
        self._results = {
            "table": str(summary.places.table),
            "journal": str(summary.places.journal),
            "failed_commands": str(summary.places.failed_commands),
            "n_done": summary.n_done,
        }
        return runtime
