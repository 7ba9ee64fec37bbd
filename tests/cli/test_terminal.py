"""Whatever becomes of what a command prints, and whatever is in it, the run goes on."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from nipype_blm.cli.terminal import Unfailing, escape

PYTHON = f"{shlex.quote(sys.executable)} -P -m nipype_blm.cli"
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def shell(tmp_path):
    """Function that runs a line of bash and returns its end; `$ended` is the command's code."""

    def run(line, **variables):
        done = subprocess.run(
            ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
            cwd=tmp_path,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    return run


# What may become of standard input, output and error.
STREAMS = {
    "no input": "<&-",
    "no output": ">&-",
    "no error": "2>&-",
    "nothing": "<&- >&- 2>&-",
    "a full disk": ">/dev/full 2>/dev/full",
    "errors on a full disk": "2>/dev/full",
    "nobody reads": "2>&1 | true",
    "nobody reads on": "2>&1 | head -c 1",
}


@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS)
def test_a_run_makes_its_maps_whatever_becomes_of_what_it_prints(study, shell, streams):
    """Closed, full or without a reader: the exit code tells of the maps alone."""
    study.configure()
    code, _ = shell(f"{PYTHON}.blm blm.yml {streams}")
    assert code == 0
    _, beta, _ = study.fit()
    np.testing.assert_allclose(study.map("beta"), np.nan_to_num(beta), rtol=2e-6, atol=1e-4)


def test_a_log_that_cannot_be_written_costs_its_messages_and_no_map(study, monkeypatch):
    """Nipype's messages go to a file, whose disk may be full when the maps' is not."""
    full = partial(os.open, "/dev/full")
    monkeypatch.setattr("nipype_blm.cli.run.open_plain", lambda path, flags: full(flags))
    result = study.run("--quiet")
    assert (result.code, result.errors) == (0, [])
    assert study.map("mask").any()


REFUSED = (
    f"{PYTHON}.blm blm.yml",
    f"{PYTHON}.blmm blm.yml --check",
    f"{PYTHON}.compare none none out",
    f"{PYTHON}.main pool status --file none.json",
)
PRINTED = (f"{PYTHON}.blm --help", f"{PYTHON}.compare --help", f"{PYTHON}.main --version")


@pytest.mark.parametrize("number", range(len(STREAMS)), ids=STREAMS)
def test_what_a_command_found_is_its_exit_code_whatever_becomes_of_what_it_prints(
    study, shell, number
):
    """Each case has an option and two inputs refused, and something printed."""
    study.configure(X="none.csv")
    (study.folder / "none").mkdir()
    pairs = [*itertools.combinations(REFUSED, 2), REFUSED[:2], REFUSED[2:]]
    bad = [f"{PYTHON}.blm --no-such-option", *pairs[number]]
    good = [PRINTED[number % len(PRINTED)]]
    streams = [*STREAMS.values()][number]
    codes = [shell(f"{command} {streams}")[0] for command in bad + good]
    assert codes == [2] * len(bad) + [0] * len(good)


LANGUAGES = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}]


@pytest.mark.parametrize("variables", LANGUAGES, ids=str)
def test_a_name_that_an_encoding_cannot_print_is_replaced(study, shell, variables):
    """Also a half of a character, which stands for a byte of a path that is no text."""
    study.configure(contrasts=[{"name": "\u00e2ge \u5fc3", "vector": [0, 0, 1]}])
    for option in ("--check", ""):
        code, printed = shell(f"{PYTHON}.blm blm.yml {option}", **variables)
        assert code == 0, printed
        assert "ge" in printed
    missing = shlex.quote(os.fsdecode(b"r\xc3\xa9sultats\xe9.yml"))
    code, printed = shell(f"{PYTHON}.blm {missing}", **variables)
    assert code == 2, printed
    assert "Traceback" not in printed
    assert "sultats" in printed


HOSTILE = "a\x1bcb\x07c\rd\x9bJe\u202ef"


def test_control_characters_are_shown_and_not_obeyed():
    """Those of C0 and C1, of the direction of text, and halves of characters."""
    assert not UNPRINTABLE.search(escape(HOSTILE))
    assert escape("\x1b\r\x07\x9b\u202e\udce9") == r"\x1b\r\x07\x9b\u202e\udce9"
    plain = "line\n\tIn\u00eas \u5fc3 \u0645\u062e \U0001f9e0 \u200d"
    assert escape(plain) == plain


@pytest.mark.parametrize("option", ["--check", ""])
def test_control_characters_in_names_do_not_reach_a_terminal(study, shell, option):
    """Of contrasts, columns, files and folders, in what is shown and in what is refused."""
    in_tables = HOSTILE.replace("\r", "")  # where it ends a line
    table = (study.folder / "X.csv").read_text()
    study.write("X.csv", f"one,{in_tables},three\n{table}")
    (study.folder / "s00.nii").rename(study.folder / f"s00{in_tables}.nii")
    lines = (study.folder / "Y.txt").read_text()
    study.write("Y.txt", lines.replace("s00", f"s00{in_tables}"))
    contrasts = [{"name": f"{HOSTILE}\nThe maps are in /elsewhere", "vector": [0, 0, 1]}]
    study.configure(contrasts=contrasts, outdir=f"out{HOSTILE}")
    code, printed = shell(f"{PYTHON}.blm blm.yml {option}")
    assert code == 0, printed
    assert not UNPRINTABLE.search(printed)
    assert r"\x1bc" in printed
    assert "\nThe maps are in /elsewhere" not in printed
    study.configure(contrasts=contrasts, X=f"none{HOSTILE}.csv", outdir="out")
    code, printed = shell(f"{PYTHON}.blm blm.yml {option}")
    assert code == 2
    assert not UNPRINTABLE.search(printed)
    assert r"none" in printed


def test_a_terminal_shows_progress_and_no_control_characters_of_names(study, shell):
    """In a terminal rich draws with control characters, and prints what others say."""
    study.configure(outdir=f"out{HOSTILE}")
    command = f"{PYTHON}.blm blm.yml"
    code, printed = shell(f"script -qec {shlex.quote(command)} /dev/null", TERM="xterm")
    assert code == 0, printed
    assert "reading images" in printed
    assert "nodes:" in printed
    assert not re.search("\x1bc|[\x07\x9b\u202e]", printed)
    assert r"\x1bc" in printed


def test_a_pipe_that_is_read_slowly_gets_what_comes_later():
    """Below Node and some CI systems standard error does not block: what is too much is refused."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with os.fdopen(theirs, "w") as file:
        stream = Unfailing(file)
        for _ in range(100):
            stream.write("x" * 10_000 + "\n")
            stream.flush()
        assert os.read(ours, 2**20)  # all that the pipe holds
        stream.write("error: the end\n")
        stream.end()
        assert os.read(ours, 2**20).decode().endswith("error: the end\n")
    os.close(ours)
