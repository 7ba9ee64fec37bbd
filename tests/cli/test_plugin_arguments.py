"""What is said about the arguments of a plugin, before a job is submitted and after it failed."""

import errno
import traceback

import dask.config
import nipype
import pytest
from cli.test_pool import Pool
from nipype.interfaces.utility import Function
from nipype.pipeline.engine import Node, Workflow
from nipype.pipeline.plugins.tools import report_crash

from nipype_blm.cli.plugins import read_arguments
from nipype_blm.cli.run import describe_failure
from nipype_blm.plugins import DaskPlugin
from nipype_blm.tasks.batch import BATCH_SYSTEMS
from nipype_blm.tasks.options import parse_options

JOBS = "cluster: slurm\ncores: 1\nmemory: 1GB\n"


@pytest.fixture
def write_program(tmp_path, monkeypatch):
    """Function that writes a program which is found before all others; there is an sbatch."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def write(name, command):
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)

    write("sbatch", "exit 1")
    return write


@pytest.fixture(autouse=True)
def jobqueue_yaml():
    """The section of Slurm in the user's jobqueue.yaml, without the one of who runs the tests."""
    assert BATCH_SYSTEMS["slurm"].cluster_class  # Dask's defaults are there once it is imported
    section = dict(dask.config.merge(*dask.config.defaults)["jobqueue"]["slurm"])
    with dask.config.set({"jobqueue.slurm": section}):
        yield section


@pytest.fixture
def check(study, write_program):
    """Function that checks a model with a plugin and the text of its arguments."""

    def run(plugin, text):
        arguments = ["--plugin-args", study.write("arguments.yml", text)]
        return study.run("--check", *(["--plugin", plugin] if plugin else []), *arguments)

    return run


# -- Arguments that can be used ------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "text"),
    [
        ("Dask", f"{JOBS}walltime: 10:00:00\nqueue: short\n"),
        ("Dask", f"{JOBS}walltime: 60\n"),
        ("Dask", "security: false\n"),
        ("MultiProc", "n_procs: 2\nmemory_gb: 4\n"),
        ("SLURM", "sbatch_args: --mem=4G\nmax_jobs: 100\n"),
        ("SLURM", "of_a_later_nipype: 1\n"),
    ],
    ids=["jobs of Dask", "minutes", "pool", "MultiProc", "SLURM", "unknown and near to none"],
)
def test_arguments_that_a_plugin_takes_pass_the_check(study, check, plugin, text):
    result = check(plugin, text)
    assert (result.code, result.err) == (0, "")
    assert not study.outdir.exists()


@pytest.mark.parametrize("walltime", ["10:00:00", "1:30.5"])
@pytest.mark.usefixtures("write_program")
def test_a_time_without_quotes_reaches_the_plugin_as_it_was_written(study, walltime):
    path = study.write("arguments.yml", f"{JOBS}walltime: {walltime}\nn_workers: 12\n")
    options = parse_options(read_arguments(path))
    assert options.get("walltime") == walltime
    assert options.n_workers == 12


# -- Arguments that cannot -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "text", "words"),
    [
        ("Dask", f"{JOBS}walltime: 36000\n", ["walltime is 36000", "10:00:00", "in quotes"]),
        ("Dask", f"{JOBS}workers: 2\n", ["'workers' is not an argument", "n_workers"]),
        ("Dask", f"{JOBS}asynchronous: true\n", ["'asynchronous' is not an argument"]),
        ("Dask", "security: some text\n", ["security is 'some text'", "boolean"]),
        ("Dask", "scheduler_file: none.json\n", ["none.json cannot be read", "pool start"]),
        ("MultiProc", "n_procs: two\n", ["--plugin MultiProc", "'n_procs': 'two'"]),
        ("SLURM", "sbatch_arg: --mem=4G\n", ["--plugin SLURM", "did you mean sbatch_args?"]),
        (None, "n_procs: 2\n", ["arguments.yml", "Linear", "no arguments", "--plugin"]),
    ],
    ids=[
        "walltime of seconds",
        "workers",
        "asynchronous",
        "security",
        "scheduler_file",
        "n_procs",
        "sbatch_arg",
        "no plugin",
    ],
)
def test_an_argument_that_cannot_be_used_is_one_clear_error_before_the_run(
    study, check, plugin, text, words
):
    result = check(plugin, text)
    assert result.code == 2
    [error] = result.err.splitlines()
    assert error.startswith("error: ")
    assert [word for word in words if word not in error] == []
    assert not study.outdir.exists()


def test_what_yaml_makes_of_a_time_in_jobqueue_yaml_is_refused(check, jobqueue_yaml):
    jobqueue_yaml |= {"walltime": 36000}
    result = check("Dask", JOBS)
    assert result.code == 2
    assert "walltime is 36000" in result.err
    assert check("Dask", f"{JOBS}walltime: '10:00:00'\n").code == 0


@pytest.mark.parametrize(("plugin", "command"), [("SLURM", "sbatch"), ("SGE", "qsub")])
def test_a_missing_command_of_a_plugin_is_found_by_the_check(study, monkeypatch, plugin, command):
    monkeypatch.setenv("PATH", str(study.folder))
    result = study.run("--check", "--plugin", plugin)
    assert result.code == 2
    [error] = result.err.splitlines()
    assert error.startswith(f"error: {command}, which submits the jobs of --plugin {plugin}, is ")
    assert "not on the PATH" in error


@pytest.mark.parametrize(
    ("name", "above", "line"),
    [("blm.yml", "X: X.csv\n\n", 4), ("arguments.yml", "n_procs: 1\n", 3)],
    ids=["configuration", "arguments"],
)
def test_a_field_that_is_given_twice_is_named_at_its_second_line(study, name, above, line):
    config = study.configure()
    arguments = study.write("arguments.yml", "memory_gb: 1\nn_procs: 2\n")
    path = study.folder / name
    path.write_text(above + path.read_text())
    result = study.command(config, "--check", "--plugin", "Dask", "--plugin-args", arguments)
    assert result.code == 2
    [error] = result.errors
    field = above.partition(":")[0]
    assert error == (
        f"{path} is not valid YAML: the field '{field}' is given twice (line {line}, column 1)."
    )


def test_a_missing_file_of_arguments_is_named_as_that(study):
    path = study.folder / "none.yml"
    result = study.run("--check", "--plugin", "Dask", "--plugin-args", path)
    assert result.code == 2
    [error] = result.err.splitlines()
    assert error.startswith(f"error: --plugin-args {path} cannot be read: ")


# -- After a failure -----------------------------------------------------------------------


@pytest.fixture
def short_timeout():
    """Nipype waits for the result of a job that has left the queue for seconds."""
    before = nipype.config.get("execution", "job_finished_timeout")
    nipype.config.set("execution", "job_finished_timeout", "1")
    yield
    nipype.config.set("execution", "job_finished_timeout", before)


@pytest.mark.parametrize(
    ("sbatch", "words"),
    [
        ("echo 'error: Invalid account' >&2; exit 1", ["IndexError: ", "refused a job", "to see"]),
        ("echo Submitted batch job 7", ["TypeError: ", "a job was lost", "memory or time"]),
        (
            "echo Submitted batch job 7; echo 2 jobs are queued",
            ["AttributeError: ", "does not name the job", "may be left in the queue"],
        ),
    ],
    ids=["refused", "lost", "unnamed"],
)
@pytest.mark.usefixtures("short_timeout")
def test_what_nipype_does_not_say_of_its_jobs_is_said(study, write_program, sbatch, words):
    write_program("sbatch", sbatch)
    write_program("squeue", "exit 0")
    write_program("scancel", "exit 0")
    result = study.run("--plugin", "SLURM", "--quiet")
    assert result.code == 1
    assert [word for word in words if word not in result.err] == []
    assert "Traceback" not in result.err
    assert len([*study.outdir.rglob("batchscript_*.sh")]) == 1  # which the advice names


@pytest.mark.parametrize(
    "error",
    [
        TypeError('can only concatenate str (not "list") to str'),
        IndexError("list index out of range"),
    ],
    ids=["TypeError", "IndexError"],
)
@pytest.mark.parametrize("plugin", [None, "Linear", "MultiProc", "Dask"])
def test_an_error_of_any_other_plugin_is_not_taken_for_that_of_a_job(study, plugin, error):
    config = study.ask()
    first, *others = describe_failure(error, config, plugin).splitlines()
    assert first == str(error)
    assert [line for line in others if "job" in line.replace(str(study.folder), "")] == []


def fail_with(text):
    """Raise an error, below another one."""
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError(text) from error


def fail_for_users(text):
    """Raise an error of ours."""
    from nipype_blm.ngv.running import StageError

    raise StageError(text)


def run_by(plugin, text, folder, function=fail_with):
    """Return the error of a workflow with a node that fails."""
    node = Node(Function(input_names=["text"], function=function), name="fail")
    node.inputs.text = text
    workflow = Workflow("fails", base_dir=str(folder))
    workflow.add_nodes([node])
    workflow.config["execution"] = {"stop_on_first_crash": "true", "crashdump_dir": str(folder)}
    with pytest.raises(Exception) as error:  # noqa: PT011
        workflow.run(plugin=plugin)
    return error.value


def report_a_crash(_, text, folder):
    """Return the error of a node without a record, as Nipype reports it."""
    node = Node(Function(input_names=["text"], function=fail_with), name="fail")
    node.base_dir, node.config = str(folder), {"execution": {"crashdump_dir": str(folder)}}
    node.config["execution"]["crashfile_format"] = "txt"
    try:
        fail_with(text)
    except ValueError as error:
        lines = traceback.format_exception(error)
    report_crash(node, lines)
    assert "to the node could not be found." in lines[-1]
    return RuntimeError("".join(lines))


@pytest.mark.parametrize(
    ("make", "plugin"), [(run_by, "Linear"), (run_by, DaskPlugin), (report_a_crash, None)]
)
@pytest.mark.parametrize("text", ["one line", "one line,\nand another one"])
def test_what_failed_is_said_whole_whatever_nipype_writes_around_it(study, make, plugin, text):
    """The last exception, not the last line; without a traceback it is the text itself."""
    config = study.ask()
    plugin = plugin if plugin in (None, "Linear") else plugin({"n_workers": 1})
    error = make(plugin, text, study.folder)
    assert describe_failure(error, config).startswith(f"ValueError: {text}\nThe run failed;")
    plain = RuntimeError(f"Could not submit it\nCommand:\n\nsbatch x\n\n{text}")
    assert describe_failure(plain, config).startswith(f"{plain}\nThe run failed;")


@pytest.mark.parametrize("plugin", ["Linear", DaskPlugin])
def test_of_an_error_of_ours_only_the_message_is_said(study, plugin):
    plugin = plugin if plugin == "Linear" else plugin({"n_workers": 1})
    error = run_by(plugin, "A stage has failed.", study.folder, fail_for_users)
    assert describe_failure(error, study.ask()).startswith("A stage has failed.\nThe run failed;")


def test_of_a_lost_node_nothing_is_said_about_crash_files(study):
    config = study.ask()
    lost = report_a_crash(None, "PoolError: Node x was lost.", study.folder)
    assert describe_failure(lost, config).splitlines()[0] == "Node x was lost."
    assert "crashfile" not in describe_failure(lost, config)


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("OSError: [Errno 28] No space left on device: '/scratch/tmp/x.blm'", "/scratch/tmp is"),
        ('OSError: [Errno 122] Disk quota exceeded: "/it\'s/x"', "/it's is full"),
        ("OSError: [Errno 28] No space left on device: '/a/.x' -> '/a/x'", "/a is full"),
        ("OSError: [Errno 28] No space left on device", "{work} or {out} is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "{work} or {out} is full"),
    ],
)
def test_the_full_disk_that_is_named_is_the_one_that_was_full(study, reason, named):
    """By the file that the error names, also where it is the cause of another error."""
    config = study.ask()
    config.work_folder.mkdir(parents=True)
    named = named.format(work=config.work_folder, out=config.out_dir)
    for text in (reason, f"Traceback...\n{reason}\n\nDuring ...\n\nRuntimeError: lost"):
        [line] = describe_failure(RuntimeError(text), config).splitlines()
        assert line.startswith(f"The disk of {named}")
        assert "free some space" in line


@pytest.mark.parametrize("full", ["outdir", "work_dir"])
def test_of_two_disks_the_one_with_less_space_is_named(study, small_disk, full):
    fields = study.fields | {"outdir": "out", "work_dir": "work"} | {full: str(small_disk / "x")}
    config = study.ask(**fields)
    for folder in (config.out_dir, config.work_folder):
        folder.mkdir(parents=True)
    error = OSError(errno.ENOSPC, "No space left on device")
    assert describe_failure(error, config).startswith(f"The disk of {small_disk / 'x'} is full")


@pytest.mark.parametrize("character", [" ", "'", "(", "$", "&", ";"])
@pytest.mark.parametrize(("plugin", "program"), [("SLURM", "sbatch"), ("SGE", "qsub")])
@pytest.mark.parametrize("option", ["--check", "--quiet"])
def test_a_folder_that_the_commands_of_a_plugin_cannot_hold_is_refused(
    study, write_program, option, plugin, program, character
):
    """Nipype puts paths into lines of a shell; Slurm would say something of another file."""
    write_program(program, "exit 1")
    folder = study.folder / f"my{character}work"
    result = study.run(option, "--plugin", plugin, work_dir=str(folder))
    assert result.code == 2
    [error] = result.errors
    assert str(folder) in error
    assert ("a space" if character == " " else repr(character)) in error
    assert "another work_dir" in error
    assert study.run("--check", work_dir=str(folder)).code == 0


# -- Lists of commands on a pool -----------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """One worker."""
    found = Pool(tmp_path_factory.mktemp("pool"))
    try:
        found.start(1)
        yield found
    finally:
        found.kill()
