"""``nipype-blm``: one grammar for all commands, and what people give in the wrong place."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nipype_blm.cli.main import main

COMMANDS = ["fit", "infer", "compare", "diagnose", "export", "commands", "pool", "compile"]
ACTIONS = ["pool start", "pool status", "pool stop"]
RUNNING = ["fit", "infer", "compare"]  # what runs a workflow
STAND_ALONE = ["blm", "blmm", "blmm_compare"]


def run_process(command, *arguments, folder, **variables):
    """Run a command as the console script of this environment, or as a module."""
    script = Path(sys.executable).with_name(command)
    start = [str(script)] if script.exists() else [sys.executable, "-P", "-m", MODULES[command]]
    return subprocess.run(
        [*start, *map(str, arguments)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


MODULES = {
    "nipype-blm": "nipype_blm.cli.main",
    "blm": "nipype_blm.cli.blm",
    "blmm": "nipype_blm.cli.blmm",
    "blmm_compare": "nipype_blm.cli.compare",
}


@pytest.fixture
def say(study, monkeypatch, capsys):
    """Function that runs ``nipype-blm`` in the folder of the study: code, output, errors."""
    monkeypatch.chdir(study.folder)
    study.configure()

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if line.startswith("error: ")]

    return run


def refuse(found):
    """Return the only sentence of a command that refuses what it was given."""
    code, _, errors = found
    assert code == 2
    [error] = errors
    return error


# -- One grammar ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS, *ACTIONS, "cluster start"])
def test_help_has_examples_that_the_command_takes_and_the_exit_codes(say, command):
    code, text, _ = say(*command.split(), "--help")
    assert code == 0
    examples = text.split("examples:\n")[1].split("\n\n")[0].splitlines()
    assert examples
    for line in examples:
        assert line.startswith("  nipype-blm ")
    assert "Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", STAND_ALONE)
def test_commands_that_stand_alone_have_the_same_help(study, command):
    done = run_process(command, "--help", folder=study.folder)
    assert done.returncode == 0
    for word in ("examples:", "Exit codes: 0", "--check", "--graph", "--pool", "--plugin-args"):
        assert word in done.stdout


def test_all_commands_that_run_a_workflow_have_the_same_options(say):
    options = ("--check", "--graph FILE", "--pool POOL.json", "--plugin NAME", "--quiet")
    for command in RUNNING:
        text = say(command, "--help")[1]
        for option in (*options, "--plugin-args FILE.yml", "--version"):
            assert option in text


def test_the_old_name_of_pool_works_and_is_not_shown(say):
    assert "cluster" not in say("--help")[1]
    assert refuse(say("cluster", "status", "--file", "none.json")).endswith("of a pool.")
    assert refuse(say("pool", "status", "--pool", "none.json")).endswith("of a pool.")


@pytest.mark.parametrize("arguments", [[], ["fit"], ["fit", "blm.yml"], ["pool"], ["fitt"]])
def test_what_is_missing_or_not_known_is_said_with_the_usage(study, arguments):
    done = run_process("nipype-blm", *arguments, folder=study.folder)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: nipype-blm")
    assert "Traceback" not in done.stderr


# -- fit -----------------------------------------------------------------------------------


def test_fit_gives_the_maps_of_blm_in_another_folder(study, say):
    """OUT is relative to where the command is given, and the outdir of the file stays unused."""
    code, text, _ = say("fit", "blm.yml", "results")
    assert code == 0
    assert "The maps are in" in text
    assert not study.outdir.exists()
    assert yaml.safe_load(Path("results/inputs.yml").read_text())["outdir"] == str(
        study.folder / "results"
    )
    assert study.run().code == 0
    for name in ("beta", "conT", "mask"):
        found = Path("results", f"blm_vox_{name}.nii").read_bytes()
        assert found == study.path(f"blm_vox_{name}").read_bytes()
    assert "Nothing to do" in say("fit", "blm.yml", "results")[1]


def test_fit_reads_from_the_file_whether_the_model_is_mixed_and_needs_no_outdir(study, say):
    study.write("f.txt", "".join(f"{i // 3}\n" for i in range(12)))
    study.write("z.csv", "1\n" * 12)
    factor = {"name": "subject", "factor": "f.txt", "design": "z.csv"}
    study.configure(Z=[{"f1": factor}], outdir=None, safeMode=0)
    assert say("fit", "blm.yml", "results", "--quiet")[0] == 0
    assert Path("results/blmm_vox_D.nii").exists()


def test_results_can_be_fitted_again_from_their_inputs_yml(study, say):
    say("fit", "blm.yml", "one")
    assert say("fit", "one/inputs.yml", "one")[0] == 0
    assert say("fit", "one/inputs.yml", "two")[0] == 0
    assert Path("one/blm_vox_beta.nii").read_bytes() == Path("two/blm_vox_beta.nii").read_bytes()


@pytest.mark.parametrize("order", [("O", "S", "T"), ("S", "O", "T"), ("S", "T", "O")])
def test_options_may_stand_anywhere(study, say, order):
    parts = {"O": ["--check", "--quiet"], "S": ["blm.yml"], "T": ["results"]}
    code, text, _ = say("fit", *(word for part in order for word in parts[part]))
    assert code == 0
    assert "12 images" in text
    assert not Path("results").exists()


def test_words_of_bids_apps_are_refused_with_the_usage(study):
    """Who knows `app BIDS OUT group` adds the level, which no command has."""
    done = run_process("nipype-blm", "fit", "blm.yml", "results", "group", folder=study.folder)
    assert done.returncode == 2
    assert "unrecognized arguments: group" in done.stderr


def test_a_process_gives_the_exit_code_of_what_it_found(study):
    study.configure(X="none.csv")
    done = run_process("nipype-blm", "fit", "blm.yml", "results", folder=study.folder)
    assert done.returncode == 2
    assert "none.csv" in done.stderr
    assert not (study.folder / "results").exists()
    study.configure()
    done = run_process("nipype-blm", "fit", "blm.yml", "results", "--quiet", folder=study.folder)
    assert done.returncode == 0, done.stderr
    assert (study.folder / "results" / "blm_vox_beta.nii").exists()


# -- SOURCE and OUT in the wrong place -----------------------------------------------------


@pytest.fixture
def bids(study):
    """A BIDS data set with one image."""
    folder = study.folder / "bids"
    (folder / "sub-01" / "anat").mkdir(parents=True)
    shutil.copy(study.folder / "s00.nii", folder / "sub-01" / "anat" / "sub-01_T1w.nii")
    description = {"Name": "a study", "BIDSVersion": "1.9.0"}
    (folder / "dataset_description.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("s00.nii", "is an image"),
        (".", "is a folder, but no BIDS data set"),
    ],
)
def test_a_source_of_which_no_run_can_be_made_is_told_what_one_is(study, say, source, kind):
    error = refuse(say("fit", source, "results"))
    assert error.startswith(f"error: SOURCE {source} {kind}")
    assert "expected a BIDS data set or a table of covariates, with --formula; or a conf" in error
    assert not Path("results").exists()


@pytest.mark.parametrize(("source", "kind"), [("people.tsv", "a table"), ("bids", "a BIDS data")])
def test_a_table_or_a_data_set_alone_is_asked_for_a_formula(study, say, bids, source, kind):
    study.write("people.tsv", "participant_id\tage\nsub-01\t30\n")
    shutil.copy(study.folder / "people.tsv", bids / "participants.tsv")
    error = refuse(say("fit", source, "results"))
    assert f"{source} is {kind}" in error
    assert "--formula" in error
    assert "participant_id, age" in error
    assert not Path("results").exists()


def test_a_folder_of_results_as_source_is_told_its_inputs_yml(study, say):
    say("fit", "blm.yml", "one")
    error = refuse(say("fit", "one", "two"))
    assert "SOURCE one is a folder of results; give one/inputs.yml" in error


@pytest.mark.parametrize("source", ["results", "new"])
def test_source_and_out_in_the_wrong_order_are_told_the_right_one(study, say, source):
    Path("results").mkdir()
    error = refuse(say("fit", source, "blm.yml"))
    assert error.endswith(f"SOURCE comes first: nipype-blm fit blm.yml {source}.")
    assert Path("blm.yml").is_file()


def test_out_cannot_be_a_file_nor_a_place_below_one(study, say, contents_of):
    before = contents_of(study.folder)
    assert "OUT X.csv is a file; give a folder" in refuse(say("fit", "blm.yml", "X.csv"))
    assert "blm.yml is a file" in refuse(say("fit", "blm.yml", "blm.yml/results"))
    assert "s3 URL" in refuse(say("fit", "blm.yml", "s3://bucket/results"))
    assert contents_of(study.folder) == before


@pytest.mark.parametrize(
    ("out", "reason"),
    [("", "'' is not a path"), (" ", "' ' is not a path"), ("~nobody-here/x", "home directory")],
)
def test_out_that_is_no_path_is_refused_and_nothing_is_written(
    study, say, contents_of, out, reason
):
    before = contents_of(study.folder)
    code, _, [error] = say("fit", "study.yml", out)
    assert code == 2
    assert error.startswith("error: OUT: ")
    assert reason in error
    assert contents_of(study.folder) == before


def test_out_cannot_be_a_bids_data_set_but_a_folder_of_its_derivatives(study, say, bids):
    error = refuse(say("fit", "blm.yml", bids))
    assert f"such as {bids / 'derivatives' / 'nipype_blm'}" in error
    assert say("fit", "blm.yml", bids / "derivatives" / "nipype_blm", "--quiet")[0] == 0


def test_out_with_the_maps_of_the_other_model_is_refused_and_stays(study, say, contents_of):
    say("fit", "blm.yml", "one")
    study.write("f.txt", "".join(f"{i // 3}\n" for i in range(12)))
    study.write("z.csv", "1\n" * 12)
    factor = {"name": "subject", "factor": "f.txt", "design": "z.csv"}
    study.configure(Z=[{"f1": factor}], safeMode=0)
    before = contents_of(study.folder / "one")
    assert "has maps of blm" in refuse(say("fit", "blm.yml", "one"))
    assert contents_of(study.folder / "one") == before


def test_out_with_results_made_elsewhere_is_refused_and_stays(study, say, contents_of):
    say("fit", "blm.yml", "one")
    other = [{"c1": {"name": "other", "vector": [0, 1, 0]}}]
    study.configure(to="other.yml", work_dir="elsewhere", contrasts=other)
    before = contents_of(study.folder / "one")
    assert "has the results of another model" in refuse(say("fit", "other.yml", "one"))
    assert contents_of(study.folder / "one") == before


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_out_with_results_of_another_configuration_is_told_of(study, say, check):
    """The same command after a change is meant to replace them; another OUT may have been meant."""

    def list_notices(*arguments):
        done = run_process("nipype-blm", "fit", *arguments, folder=study.folder)
        assert done.returncode == 0
        return [line for line in done.stderr.splitlines() if "of another model" in line]

    say("fit", "blm.yml", "one")
    assert list_notices("blm.yml", "one", *check) == []
    other = [{"c1": {"name": "other", "vector": [0, 1, 0]}}]
    study.configure(to="other.yml", contrasts=other)
    [notice] = list_notices("other.yml", "one", *check)
    assert notice == "notice: OUT one has the results of another model, which these replace."
    assert list_notices("other.yml", "two", *check) == []


def test_out_beside_or_around_the_source_takes_nothing_away(study, say, contents_of):
    """As of the folder of the study itself."""
    before = contents_of(study.folder)
    assert say("fit", "blm.yml", ".", "--quiet")[0] == 0
    assert before.items() <= contents_of(study.folder).items()


# -- --graph -------------------------------------------------------------------------------


STARTS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.mark.parametrize("form", STARTS)
def test_graph_draws_what_would_run_and_runs_nothing(study, say, require_command, form):
    require_command("dot", "graphviz")
    code, text, _ = say("fit", "blm.yml", "results", "--graph", f"nodes.{form}")
    assert code == 0
    assert text == f"The workflow is drawn in nodes.{form}\n"
    content = Path(f"nodes.{form}").read_bytes()
    assert content.startswith(STARTS[form])
    if form == "svg":
        for node in (b"plan", b"products", b"estimates", b"contrasts", b"assemble"):
            assert node in content
    assert not Path("results").exists()


def test_graph_goes_with_check_and_with_blm(study, require_command):
    require_command("dot", "graphviz")
    result = study.run("--check", "--graph", study.folder / "nodes.svg")
    assert result.code == 0
    assert "12 images" in result.out
    assert "is drawn in" in result.out
    assert (study.folder / "nodes.svg").exists()
    assert not study.outdir.exists()


def test_a_fault_of_the_configuration_is_said_before_anything_is_drawn(study, say, require_command):
    require_command("dot", "graphviz")
    study.configure(X="none.csv")
    assert "none.csv" in refuse(say("fit", "blm.yml", "results", "--graph", "nodes.svg"))
    assert not Path("nodes.svg").exists()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("nodes.dot", "ends in .dot"),
        ("nodes", "ends in nothing"),
        ("blm.yml", "ends in .yml"),
        ("none/nodes.svg", "lies in no folder that exists"),
        ("folder.svg", "is a folder"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_at_once(study, say, picture, reason):
    Path("folder.svg").mkdir()
    error = refuse(say("fit", "blm.yml", "results", "--graph", picture))
    assert error.startswith(f"error: --graph {picture}")
    assert reason in error


def test_without_graphviz_a_sentence_says_how_to_get_it(study, say, monkeypatch):
    monkeypatch.setenv("PATH", "")
    error = refuse(say("fit", "blm.yml", "results", "--graph", "nodes.svg"))
    assert "`dot`, which is not on the PATH of this machine; install Graphviz" in error


# -- --pool and --plugin -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [["--plugin", "Dask"], ["--plugin-args", "a.yml"], ["--plugin", "SLURM"]]
)
@pytest.mark.parametrize("command", ["fit", "compare"])
def test_pool_with_another_plugin_is_refused_in_one_sentence(study, say, command, options):
    places = ["blm.yml", "results"] if command == "fit" else ["one", "two", "results"]
    error = refuse(say(command, *places, "--pool", "pool.json", *options))
    assert "leave out --plugin and --plugin-args" in error


def test_a_pool_in_the_folder_of_nobody_is_refused_in_one_sentence(study, say):
    code, _, [error] = say("fit", "study.yml", "results", "--pool", "~nobody-here/pool.json")
    assert code == 2
    assert error.startswith("error: --pool ~nobody-here/pool.json: ")


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_a_pool_that_is_not_there_is_refused_before_anything_runs(say, two_fits, check):
    for places in (["fit", "blm.yml", "results"], ["compare", *two_fits, "results"]):
        error = refuse(say(*places, "--pool", "none.json", *check))
        assert "none.json cannot be read" in error
        assert "nipype-blm pool start" in error
        assert not Path("results").exists()


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_arguments_of_no_plugin_are_refused_before_anything_runs(study, say, two_fits, check):
    study.write("arguments.yml", "n_procs: 2\n")
    for places in (["fit", "blm.yml", "results"], ["compare", *two_fits, "results"]):
        error = refuse(say(*places, "--plugin-args", "arguments.yml", *check))
        assert "Linear, which runs here, takes no arguments" in error
        assert not Path("results").exists()


@pytest.fixture
def two_fits(study, say):
    """The folders of a linear and of a mixed model with the same X."""
    study.write("f.txt", "".join(f"{i // 3}\n" for i in range(12)))
    study.write("z.csv", "1\n" * 12)
    factor = {"name": "subject", "factor": "f.txt", "design": "z.csv"}
    study.configure(to="mixed.yml", Z=[{"f1": factor}], safeMode=0)
    assert say("fit", "blm.yml", "smaller", "--quiet")[0] == 0
    assert say("fit", "mixed.yml", "larger", "--quiet")[0] == 0
    return ["smaller", "larger"]


def test_a_pool_runs_fits_and_comparisons_with_the_same_maps(study, say, two_fits):
    Path("pools").mkdir(0o700)
    pool = ["--pool", "pools/pool.json"]
    start = ["pool", "start", *pool, "--n-workers", "2", "--quiet"]
    done = run_process("nipype-blm", *start, folder=study.folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    try:
        assert say("fit", "blm.yml", "on_pool", *pool)[0] == 0
        assert say("compare", *two_fits, "compared_on_pool", *pool)[0] == 0
        study.write("commands.txt", "touch done\n")
        code, text, _ = say("commands", *pool, "commands.txt", "--check")
        assert (code, text) == (0, "1 command of 1 would run, 0 are done\ntouch done\n")
        assert not Path("done").exists()
        assert say("commands", *pool, "commands.txt", "--quiet")[:2] == (0, "")
        assert Path("done").exists()
    finally:
        assert say("pool", "stop", *pool, "--quiet")[:2] == (0, "")
    assert say("compare", *two_fits, "compared")[0] == 0
    for one, other in (("smaller", "on_pool"), ("compared", "compared_on_pool")):
        maps = sorted(path.name for path in Path(one).glob("*.nii"))
        assert maps
        for name in maps:
            assert Path(one, name).read_bytes() == Path(other, name).read_bytes(), name


# -- compare -------------------------------------------------------------------------------


def test_compare_is_blmm_compare(study, say, two_fits):
    code, text, _ = say("compare", *two_fits, "one")
    assert code == 0
    assert "voxels compared by REML" in text
    done = run_process("blmm_compare", *two_fits, "two", folder=study.folder)
    assert done.returncode == 0
    assert done.stdout == text.replace("in one", "in two")


def test_compare_checks_without_writing(study, say, two_fits):
    code, text, _ = say("compare", *two_fits, "out", "--check")
    assert code == 0
    assert "all good" in text
    assert "larger against" in text
    assert not Path("out").exists()
    assert "two were swapped" not in text


def test_compare_checks_also_models_in_the_other_order(study, two_fits):
    done = run_process("blmm_compare", *two_fits[::-1], "out", "--check", folder=study.folder)
    assert done.returncode == 0
    assert "larger has the larger model: the two were swapped." in done.stderr


def test_compare_with_out_in_the_first_place_is_told_the_order(study, say, two_fits, contents_of):
    before = contents_of(study.folder)
    for order in (["out", *two_fits], ["smaller", "out", "larger"]):
        error = refuse(say("compare", *order))
        assert "OUT, the folder for the maps, comes last, after SMALLER and LARGER" in error
    assert contents_of(study.folder) == before


def test_compare_draws_and_runs_its_node_with_a_plugin(study, say, two_fits, require_command):
    require_command("dot", "graphviz")
    assert say("compare", *two_fits, "out", "--graph", "nodes.svg")[0] == 0
    assert "compare" in Path("nodes.svg").read_text()
    assert not Path("out").exists()
    code, text, _ = say("compare", *two_fits, "out", "--plugin", "Linear")
    assert code == 0
    assert say("compare", *two_fits, "alone")[1] == text.replace("in out", "in alone")
    one, other = (Path(folder, "blmm_vox_Chi2.nii").read_bytes() for folder in ("out", "alone"))
    assert one == other


def test_what_a_node_of_a_comparison_finds_is_said_as_without_one(study, say, two_fits):
    Path("larger", "blmm_vox_llh.nii").unlink()
    ways = ([], ["--plugin", "Linear"])
    said = [refuse(say("compare", *two_fits, "out", *options)) for options in ways]
    assert said[0] == said[1]


def test_maps_of_a_model_are_never_those_of_a_comparison(study, say, two_fits):
    before = Path("larger/blmm_vox_mask.nii").read_bytes()
    assert "holds the results of a run" in refuse(say("compare", *two_fits, "larger"))
    assert Path("larger/blmm_vox_mask.nii").read_bytes() == before
