"""YAML is read as people write it, and no file is a traceback, takes all memory, or time."""

import json

import pytest

from nipype_blm.errors import InputError
from nipype_blm.io.yamlfile import read_yaml


def write(folder, text, name="c.yml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_yaml_is_read_with_a_byte_order_mark_and_any_line_end(tmp_path):
    path = write(tmp_path, "\ufeffX: a.csv\r\nnumNodes: 3\r\n", "c.yml")
    assert read_yaml(path) == {"X": "a.csv", "numNodes": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X: [1, 2\noutdir: b\n", "line 2"),
        ("X: a\n\toutdir: b\n", "line 2"),
        ("X: a\noutdir: b\nX: c\n", "'X' is given twice"),
        ("c: {name: a, name: b}\n", "'name' is given twice"),
        ("X: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("[a]: 1\n", "c.yml"),
        ("{a: 1}: 1\n", "c.yml"),
        ("X: a\x00\n", "c.yml"),
    ],
)
def test_yaml_that_is_not_valid_is_refused_with_its_place(tmp_path, text, message):
    path = write(tmp_path, text, "c.yml")
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_yaml_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Configuration file .*c\.yml cannot be read"):
        read_yaml(tmp_path / "c.yml")


NESTED = 1000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join(['*' + before] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "aliases repeat more than 100000 values"),
        (MERGED, "aliases repeat more than 100000 values"),
        ("a: &a [*a]\n", "an alias of what it is part of (line 1, column 8)"),
        ("&a\nX: *a\n", "an alias of what it is part of"),
        ("a: &a\n  <<: *a\n", "an alias of what it is part of"),
        (f"X: {'[' * NESTED}{']' * NESTED}\n", "nested more than 50 levels deep"),
        ("X: " + "{a: " * NESTED + "1" + "}" * NESTED + "\n", "nested more than 50 levels deep"),
        ("".join(" " * i + "-\n" for i in range(NESTED)), "nested more than 50 levels deep"),
    ],
)
def test_yaml_that_would_take_all_memory_or_the_stack_is_refused(tmp_path, text, reason):
    """Whatever grows without end as it is read: aliases, merge keys, nesting, circles."""
    with pytest.raises(InputError) as error:
        read_yaml(write(tmp_path, text))
    [problem] = error.value.problems
    assert reason in problem
    assert len(problem) < 500


def test_aliases_and_merge_keys_of_a_study_are_read(tmp_path):
    text = "a: &a {factor: f.txt}\nb: {<<: *a, name: s}\nc: [*a, *a]\n"
    assert read_yaml(write(tmp_path, text)) == {
        "a": {"factor": "f.txt"},
        "b": {"factor": "f.txt", "name": "s"},
        "c": [{"factor": "f.txt"}] * 2,
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("!!int abc", "'abc' is no !!int"),
        ("!!int", "!!int"),
        ("!!float", "!!float"),
        ("!!int [1]", "the tag !!int has no meaning here"),
        ("!!float abc", "'abc' is no !!float"),
        ("!!bool abc", "'abc' is no !!bool"),
        ("!!timestamp abc", "the tag !!timestamp has no meaning here"),
        ("!!binary aGVsbG8=", "the tag !!binary"),
        ("!!set {a, b}", "the tag !!set"),
        ("!!omap [a: 1]", "the tag !!omap"),
        ("!!pairs [a: 1]", "the tag !!pairs"),
        ("!!python/name:os.system", "the tag !!python/name:os.system"),
        ("!!python/object/apply:os.getcwd []", "the tag !!python/object/apply:os.getcwd"),
        ("!local x", "the tag !local"),
        ('"a\\0b"', "has a null byte"),
        ('"a\\ud800b"', "has half of a character"),
        ('"a\\udc80b"', "has half of a character"),
        ("*" + "a" * 10_000, "found undefined alias"),
        ("!" + "a" * 10_000 + " x", "has no meaning here"),
    ],
)
def test_what_no_field_can_use_is_refused_in_one_sentence(tmp_path, value, reason):
    """Every tag, explicit or not, with a value that it does not take; text that UTF-8 lacks."""
    with pytest.raises(InputError) as error:
        read_yaml(write(tmp_path, f"outdir: x\nX: {value}\n"))
    [problem] = error.value.problems
    assert problem.startswith(f"{tmp_path}/c.yml is not valid YAML: ")
    assert reason in problem
    assert "(line 2, column " in problem
    assert len(problem.splitlines()) == 1
    assert len(problem) < 500


@pytest.mark.parametrize(
    "text",
    [
        *("2020-02-03", "2020-02-30", "2020-02-03 10:00:00", "2020-02-03T10:00:00.5+99:99"),
        *("10:00:00", "1:30.5", "=", "1" * 5000, "0x" + "f" * 5000, "C:/x", "a#b"),
    ],
)
def test_text_is_text_as_it_is_written(tmp_path, text):
    """Dates, times, long numbers: what YAML 1.1 makes something else of."""
    assert read_yaml(write(tmp_path, f"X: {text}\n")) == {"X": text}


def test_names_of_fields_are_text_as_they_are_written(tmp_path):
    text = "1: a\n~: b\non: c\n2020-01-01: d\n? e\n: f\n"
    found = read_yaml(write(tmp_path, text))
    assert found == {"1": "a", "~": "b", "on": "c", "2020-01-01": "d", "e": "f"}
    with pytest.raises(InputError, match="'1' is given twice"):
        read_yaml(write(tmp_path, "1: a\n'1': b\n"))


@pytest.mark.parametrize("key", ["[a]", "{a: 1}", "? [a, b]\n", "? {a: b}\n"])
def test_a_field_whose_name_is_no_word_is_refused(tmp_path, key):
    with pytest.raises(InputError, match="a field must be a word"):
        read_yaml(write(tmp_path, f"{key}: 1\n"))


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_read_as_the_yaml_that_it_is(tmp_path, indent, ascii_only):
    data = {"X": "Zoë \U0001f9e0.csv", "numNodes": 3, "tol": 0.5, "sim": True, "Z": [{"a": None}]}
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    assert read_yaml(write(tmp_path, text)) == data


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_encoding_that_is_known_by_its_mark_is_read(tmp_path, encoding):
    path = write(tmp_path, "X: Zoë.csv\r\nnumNodes: 3\r\n".encode(encoding))
    assert read_yaml(path) == {"X": "Zoë.csv", "numNodes": 3}


def test_several_documents_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a single document.*\(line 2, column 1\)"):
        read_yaml(write(tmp_path, "X: a\n---\nX: b\n"))
