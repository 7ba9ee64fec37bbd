"""What a user gave is shown in messages, never whole if it is long, and in the user's words."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nipype_blm.errors import (
    InputError,
    Problem,
    Words,
    pack_problems,
    shorten,
    show,
    unpack_problems,
)
from nipype_blm.frontends import blm, traits
from nipype_blm.model.arithmetic import parse_number


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 10**6,
        lambda: b"x" * 10**6,
        lambda: 10**5000,
        lambda: [10**5000],
        lambda: [["x" * 1000] * 1000] * 1000,
        lambda: {f"{i}" * 100: [i] * 100 for i in range(1000)},
        lambda: {1, "a", None, *range(1000)},
        lambda: pd.DataFrame({"a": range(1000), "b": ["x" * 1000] * 1000}),
    ],
)
def test_no_value_is_shown_whole_if_it_is_long(make):
    """Text, bytes, numbers, containers in containers, objects of other libraries."""
    text = show(make())
    assert len(text) < 200
    assert len(text.splitlines()) == 1


def test_a_value_within_itself_is_shown():
    value = []
    value.append(value)
    assert len(show(value)) < 200


@pytest.mark.parametrize("value", ["a", "it's", 1, 1.5, None, True, [1, "a"], {"a": [1]}, (1,)])
def test_short_values_are_shown_as_python_writes_them(value):
    assert show(value) == repr(value)


def test_the_start_and_the_end_of_long_text_are_kept():
    text = shorten("start" + "x" * 1000 + "end")
    assert text.startswith("start")
    assert text.endswith("end")
    assert shorten("short") == "short"


# Words


def test_a_fault_is_told_in_the_words_of_whoever_asks():
    fault = Problem("max_bytes", "{max_bytes} is {given:memory}, too little.", given=10737)
    assert fault == "max_bytes is 10,737 bytes, too little."
    assert fault.worded(blm.WORDS) == "MAXMEM is 10,737 bytes, too little."
    assert fault.worded(traits.WORDS) == "max_mem_gb is 1e-05, too little."
    assert fault.worded(traits.WORDS).worded(Words()) == fault
    assert fault.field == "max_bytes"


@pytest.mark.parametrize(
    ("template", "in_yaml", "in_python"),
    [
        ("{match_rows=by_name}", "match_rows: by_name", "match_rows='by_name'"),
        ("{safe_mode=false}", "safeMode: false", "safe_mode=False"),
        ("{with_cov=true}", "OutputCovB: true", "output_cov=True"),
        ("{factors.correlated=false}", "correlated: false", "correlated=False"),
        ("{row_names=column}", "row_names: {ID}", "row_names='{ID}'"),
    ],
)
def test_a_setting_is_written_as_it_has_to_be_given(template, in_yaml, in_python):
    fault = Problem(None, f"Set {template}.", column="{ID}")
    assert fault.worded(blm.WORDS) == f"Set {in_yaml}."
    assert fault.worded(traits.WORDS) == f"Set {in_python}."


@pytest.mark.parametrize("n_bytes", [1, 999, 10737, 2**20 + 1, 123456789, 2**32, 10**12 + 7])
def test_memory_that_is_asked_for_is_enough_when_it_is_given(n_bytes):
    """Rounded up, in whole bytes or in GiB."""
    least = Problem("max_bytes", "{least:budget}", least=n_bytes)
    assert parse_number(least.worded(blm.WORDS)) == n_bytes
    gib = float(least.worded(traits.WORDS))
    assert n_bytes <= gib * 2**30 <= n_bytes * 1.001 + 1


@pytest.mark.parametrize(
    "text", ["/a/{X}/b.nii", "{}", "{0}", "{max_bytes=1}", "%s {", "}{", "{a:b"]
)
def test_braces_that_users_write_are_left_as_they_are(text):
    for problem in (Problem("X", "{X}: {path}.", path=text), InputError(f"X: {text}.").problems[0]):
        assert problem == f"X: {text}."
        assert problem.worded(blm.WORDS) == f"X: {text}."


def test_problems_are_read_back_from_json_and_can_be_told_in_other_words():
    faults = [
        Problem("min_n", "{min_n} is {given}, in {path}", given=99, path=Path("/ü/\udc80{x}")),
        Problem(None, "{share:.2f} and {size:memory}", share=0.5, size=2**30),
    ]
    again = unpack_problems(pack_problems(faults))
    assert again == faults
    assert [problem.field for problem in again] == ["min_n", None]
    assert again[0].worded(traits.WORDS) == faults[0].worded(traits.WORDS)
    assert again[0].worded(blm.WORDS).startswith("Missingness.MinN is 99, in /ü/")


def test_numbers_of_numpy_are_numbers():
    problem = Problem("max_bytes", "{n:memory}, {x:.2f}", n=np.int64(4096), x=np.float32(0.5))
    assert problem == "4,096 bytes, 0.50"
    assert unpack_problems(pack_problems([problem])) == [problem]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'[{"field": 1}]', b"{}1", b'["a"]', b"\xff"]
)
def test_a_file_that_holds_no_problems_is_an_error_of_its_content(content):
    with pytest.raises(ValueError, match=r"\w"):
        unpack_problems(content)


def test_an_error_keeps_its_problems_between_processes_in_the_words_it_was_told_in():
    error = InputError(["plain {text}", Problem("out_dir", "{out_dir} is a file.")])
    error.reword(blm.WORDS)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "plain {text}\noutdir is a file."
    assert again.problems[1].field == "out_dir"
    assert again.problems[1].worded(Words()) == "out_dir is a file."
