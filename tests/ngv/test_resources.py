"""What cluster.yaml asks for, in words of Nipype and of batch systems."""

import math
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nipype import Node
from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.plugins.sge import SGEPlugin
from nipype.pipeline.plugins.slurm import SLURMPlugin

from nipype_blm.errors import InputError
from nipype_blm.ngv.recipe.resources import Resources, read_resources

# As sbatch's manual has them, with the seconds that each is.
TIMES = [
    ("30", 30 * 60),
    ("30:15", 30 * 60 + 15),
    ("4:00:00", 4 * 3600),
    ("04:00:00", 4 * 3600),
    ("1-12", 36 * 3600),
    ("1-12:30", 36 * 3600 + 30 * 60),
    ("2-03:04:05", 51 * 3600 + 4 * 60 + 5),
]


def read(**entry: Any) -> Resources:
    return read_resources({name.replace("_", "-"): value for name, value in entry.items()}, "it")


def write_command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_nothing_asked_for_is_nothing_given() -> None:
    assert read() == Resources(1, None)
    assert read().plugin_args == {}
    assert read(nodes=6, tasks=36, jobname="synthesis").plugin_args == {}  # of MPI


def test_cores_and_memory_are_told_to_nipype_and_to_sbatch() -> None:
    # Nipype's SLURM plugin hands on neither n_procs nor mem_gb.
    found = read(cpus_per_task=4, mem="1536M")
    assert (found.n_procs, found.mem_gb) == (4, 1.5)
    assert found.plugin_args == {"sbatch_args": "--cpus-per-task=4 --mem=1536M"}
    # Of a node that has one core, whatever its stage was given.
    assert found._replace(n_procs=1).plugin_args == {"sbatch_args": "--mem=1536M"}


@pytest.mark.parametrize(
    ("given_size", "gib"),
    [
        ("8G", 8.0),
        ("8g", 8.0),
        ("8GB", 8.0),
        ("8GiB", 8.0),
        (" 8 G ", 8.0),
        (4096, 4.0),  # MiB, as of sbatch
        ("4096", 4.0),
        ("1T", 1024.0),
        ("1048576K", 1.0),
        ("0.5G", 0.5),
    ],
)
def test_memory_has_the_units_of_slurm(given_size: Any, gib: float) -> None:
    assert read(mem=given_size).mem_gb == gib
    assert read(mem=given_size).plugin_args["sbatch_args"] == f"--mem={math.ceil(gib * 1024)}M"


@pytest.mark.parametrize("nothing", [0, "0", "0G", "0M"])
def test_memory_of_0_is_all_of_a_machine(nothing: Any) -> None:
    found = read(mem=nothing)
    assert found.mem_gb is None
    assert found.plugin_args == {"sbatch_args": "--mem=0"}


@pytest.mark.parametrize("size", ["much", "8 X", "-1", "1.2.3G", "8G; true", True, [8], "8G\n1"])
def test_memory_that_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(InputError, match=r"cluster: it: mem: .* was given; expected a size"):
        read(mem=size)


@pytest.mark.parametrize(("text", "seconds"), TIMES)
def test_times_of_slurm_are_those_of_grid_engine(text: str, seconds: int) -> None:
    found = read(time=text).plugin_args
    assert found["sbatch_args"] == f"--time={text}"
    option, _, given_time = found["qsub_args"].partition("=")
    hours, minutes, rest = map(int, given_time.split(":"))
    assert option == "-l h_rt"
    assert hours * 3600 + minutes * 60 + rest == seconds


def test_a_number_as_time_is_minutes_as_of_slurm() -> None:
    assert read(time=30).plugin_args == {
        "sbatch_args": "--time=30",
        "qsub_args": "-l h_rt=00:30:00",
    }


def test_time_without_limit_is_none_of_grid_engine() -> None:
    assert read(time="UNLIMITED").plugin_args == {"sbatch_args": "--time=UNLIMITED"}


@pytest.mark.parametrize("time", ["soon", "1h", "1:2:3:4", "-5", "1.5", True, "4:00:00 --wrap=x"])
def test_what_is_no_time_is_refused(time: Any) -> None:
    with pytest.raises(InputError, match=r"cluster: it: time: .* was given; expected"):
        read(time=time)


@pytest.mark.parametrize("cores", [-1, 1.5, "2", True, "all"])
def test_cores_that_are_no_number_are_refused(cores: Any) -> None:
    with pytest.raises(InputError, match=r"cpus-per-task: .* was given; expected 1 or more"):
        read(cpus_per_task=cores)


def test_an_account_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("${{SALLOC_ACCOUNT}}", "${SALLOC_ACCOUNT}", "$SALLOC_ACCOUNT"):
        monkeypatch.setenv("SALLOC_ACCOUNT", "proj16")
        assert read(account=text).plugin_args == {"sbatch_args": "--account=proj16"}
        monkeypatch.delenv("SALLOC_ACCOUNT")
        assert read(account=text).plugin_args == {}
    monkeypatch.setenv("SALLOC_ACCOUNT", "x; touch y")
    with pytest.raises(InputError, match=r"account: .* expected a plain word"):
        read(account="${{SALLOC_ACCOUNT}}")


def test_whether_a_machine_is_to_be_ones_own_is_asked() -> None:
    assert read(exclusive=True).plugin_args == {"sbatch_args": "--exclusive"}
    assert read(exclusive=False).plugin_args == {}


HOSTILE = [
    "a b",
    "a'b",
    'a"b',
    "a;b",
    "$(touch x)",
    "`x`",
    "a>b",
    "a\nb",
    "~",
    "a\\b",
    "*",
    "!x",
    "#",
]


@pytest.mark.parametrize("name", ["account", "partition", "constraint", "qos", "nodelist"])
@pytest.mark.parametrize("value", [*HOSTILE, True, ["a"], {"a": 1}])
def test_what_a_shell_would_read_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"cluster: it: {name}: .* expected a plain word"):
        read(**{name: value})


@settings(max_examples=20)  # each starts a shell
@given(st.text(st.characters(codec="ascii"), max_size=12))
@example("cpu&ssd|(gpu)")
@example("node[01-16]")
def test_a_shell_hands_on_every_word_that_is_taken_as_it_is(text: str) -> None:
    try:
        args = read(constraint=text).plugin_args.get("sbatch_args", "")
    except InputError:
        return
    if not text.startswith("$"):
        said = subprocess.run(
            ["sh", "-c", f"printf '%s|' {args}"], capture_output=True, text=True, check=True
        )
        assert said.stdout == (f"--constraint={text}|" if text else "|")


@pytest.mark.parametrize(
    ("command", "plugin", "run_args", "said", "of_run"),
    [
        (
            *("sbatch", SLURMPlugin, {"sbatch_args": "--time=1 --qos=low"}),
            *("Submitted batch job 7", ["--time=1", "--qos=low"]),
        ),
        (
            *("qsub", SGEPlugin, {"qsub_args": "-q all.q"}),
            *("Your job 7 (a) has been submitted", ["-q", "all.q"]),
        ),
    ],
)
def test_nipype_hands_a_nodes_resources_to_the_batch_system(
    tmp_path, monkeypatch, command, plugin, run_args, said, of_run
) -> None:
    write_command(tmp_path / command, f'printf "%s\\n" "$@" > {tmp_path}/words\necho "{said}"\n')
    write_command(tmp_path / "qstat", "echo '<job_info></job_info>'\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOGNAME", "me")
    node = Node(IdentityInterface(["a"]), name="a", base_dir=str(tmp_path))
    node.plugin_args = read(
        cpus_per_task=3, mem="2G", time="00:20:00", constraint="cpu&ssd", exclusive=True
    ).plugin_args
    plugin(plugin_args=run_args)._submit_batchtask(str(tmp_path / "script.sh"), node)
    words = (tmp_path / "words").read_text().splitlines()
    own = {
        "sbatch": [
            *("--constraint=cpu&ssd", "--time=00:20:00", "--exclusive"),
            *("--cpus-per-task=3", "--mem=2048M"),
        ],
        "qsub": ["-l", "h_rt=00:20:00"],
    }[command]
    # Those of the node are later: of two that are the same, batch systems take these.
    assert words[: len(of_run) + len(own)] == of_run + own
    assert words[-1] == str(tmp_path / "script.sh")
