"""Whatever is in a configuration, a table, a list or labels: exit code 0 or 2, and no traceback.

A warning of a library is none either.

Some examples, the same ones each time; NIPYPE_BLM_FUZZ=1000 tries that many new ones of each kind.
"""

import json
import os
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nipype_blm.cli.blm import main
from nipype_blm.frontends.blm import IGNORED, list_entries

N = 6
N_EXAMPLES = os.environ.get("NIPYPE_BLM_FUZZ")
any_input = settings(
    max_examples=int(N_EXAMPLES or 5),
    derandomize=not N_EXAMPLES,
    database=None,
    deadline=20_000,  # ms
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
FIELDS = {
    "Y_files": "Y.txt",
    "X": "X.csv",
    "outdir": "out",
    "contrasts": [{"c1": {"name": "age", "vector": [0, 1]}}],
}
FACTOR = {"name": "site", "factor": "f.txt", "design": "z.csv"}
TABLE = [["1", str(0.5 * i * i)] for i in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for i in range(N):
        image = nib.Nifti1Image(rng.normal(size=(2, 2, 1)).astype("f4"), np.eye(4))
        nib.save(image, folder / f"s{i}.nii")
    return folder


@pytest.fixture
def check(folder, capsys):
    """Function that writes what is given over a good study, and checks it."""

    def check(fields=FIELDS, text=None, model="blm", **files):
        (folder / "X.csv").write_text("\n".join(map(",".join, TABLE)))
        (folder / "Y.txt").write_text("".join(f"s{i}.nii\n" for i in range(N)))
        (folder / "f.txt").write_text("a\nb\nc\n" * 2)
        (folder / "z.csv").write_text("1\n" * N)
        (folder / "c.yml").write_text(yaml.safe_dump(fields) if text is None else "")
        for name, content in {"c.yml": text, **files}.items():
            if content is not None:
                content = content.encode(errors="replace") if isinstance(content, str) else content
                (folder / name.replace("_", ".")).write_bytes(content)
        capsys.readouterr()
        code = main([str(folder / "c.yml"), "--check"], model)
        out, err = capsys.readouterr()
        assert code in (0, 2), err
        lines = err.splitlines()
        assert code == 0 or any(line.startswith("error: ") for line in lines), err
        assert "Traceback" not in err
        assert len(lines) <= 100
        assert max(map(len, lines), default=0) < 3000 + 10 * len(str(folder)), err
        assert code == 2 or "all good" in out
        return code

    return check


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(1, 4000).map(lambda n: 10**n),
    st.floats(),
    st.text(max_size=20),
    st.dates().map(str),
    st.sampled_from(
        [
            *("1e400", "1e-99999999", "10%", "2**32", "9" * 5000, "x" * 10_000, "$HOME", "~no/x"),
            *("s*.nii", "file:///x", "C:\\x", "\0", "[1 0]", "((1,0),(0,1))", "(" * 999, "none"),
            *("X.csv", "Y.txt", "s0.nii", "f.txt", "local", "slurm", "x/" * 3000, "a" * 300),
            *"~*?=-.$",
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["name", "vector"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
RAW = st.sampled_from(
    [
        *("!!int abc", "!!float x", "!!bool x", "!!null x", "!!binary aGk=", "!!set {a}", "!x y"),
        *("!!omap [a: 1]", "!!timestamp x", "!!python/name:os.system", "2020-02-30", "2020-02-03"),
        *(
            "0b101",
            "[" * 200,
            "{a: " * 200,
            "&a [*a]",
            "*a",
            "|\n  x",
            ">-\n  x",
            "? x",
            "- x\n- y",
        ),
        *('"\\0"', '"\\ud800"', '"\\ud83d\\ude00"', "0x" + "f" * 3000, "1_000", "1:30", "<<"),
        *("<<: 1", ".nan", "-.inf", "0o17", "---", "...", "%YAML 1.2", "\ufeff", "\x85"),
        *"'\"@`#\t",
    ]
)


def spoil(text, cuts):
    """Replace pieces of text by others."""
    for place, length, piece in cuts:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + length :]
    return text


CUTS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 10),
        st.text(max_size=5) | RAW | st.sampled_from(list(":-{}[],&*#?|>'\"%@`\n\t ")),
    ),
    min_size=1,
    max_size=4,
)


def config_of(model):
    fields = [entry.name for entry in list_entries(model)] + [*IGNORED, "versions"]
    changes = st.dictionaries(st.sampled_from(fields), VALUES, min_size=1, max_size=3)
    base = FIELDS | ({"Z": [FACTOR]} if model == "blmm" else {})
    return changes.map(lambda changed: base | changed)


@pytest.mark.parametrize("model", ["blm", "blmm"])
@pytest.mark.parametrize("write", [yaml.safe_dump, partial(json.dumps, default=str)])
def test_any_value_of_any_field_is_accepted_or_refused(check, model, write):
    """Scalars of every kind, huge numbers, nested lists and mappings, as YAML and as JSON."""

    @any_input
    @given(config_of(model))
    def search(fields):
        check(text=write(fields), model=model)

    search()


@pytest.mark.parametrize("model", ["blm", "blmm"])
def test_any_nested_value_is_accepted_or_refused(check, model):
    """In contrasts, Missingness and random factors."""

    @any_input
    @given(
        st.dictionaries(st.sampled_from(["name", "vector", "statType", "x"]), VALUES, max_size=3),
        st.dictionaries(st.sampled_from(["MinN", "minpercent", "Masking"]), VALUES, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "factor", "design", "correlated", "nested_in"]),
            VALUES,
            max_size=2,
        ),
    )
    def search(contrast, rules, factor):
        fields = FIELDS | {
            "contrasts": [{"name": "age", "vector": [0, 1]} | contrast],
            "Missingness": rules,
        }
        check(fields | ({"Z": [FACTOR | factor]} if model == "blmm" else {}), model=model)

    search()


def test_any_change_of_the_text_of_a_configuration_is_accepted_or_refused(check):
    """Typing errors, tags, anchors, directives, quotes and controls anywhere in good YAML."""

    @any_input
    @given(CUTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-16-le"]))
    def search(cuts, encoding):
        text = spoil(yaml.safe_dump(FIELDS | {"Missingness": {"MinN": 3}, "numNodes": 2}), cuts)
        check(text=text.encode(encoding, errors="replace"))

    search()


CELLS = st.one_of(
    st.floats().map(repr),
    st.text(max_size=6),
    st.sampled_from(["", "NA", "n/a", "nan", "TRUE", "false", "F", "M", "1,5", "1.5;2", "1_0", "#"])
    | st.sampled_from(["2020-01-02", '"a', '"a""b"', "x" * 200_000, "1e999", "0x10", "\0", "s1"]),
)
SEPARATORS = st.sampled_from([",", "\t", ";", " ", ", ", ",,", "|", "\x1f"])
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\u2028", ",\n"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "utf-32"])


@st.composite
def tables(draw):
    """A good table with other cells, rows, header, separators, encoding, or anything at all."""
    rows = [list(row) for row in TABLE]
    for row, column, cell in draw(
        st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, 1), CELLS), max_size=6)
    ):
        rows[row][column] = cell
    rows = [[draw(CELLS), *row] for row in rows] if draw(st.booleans()) else rows
    rows += draw(st.lists(st.lists(CELLS, max_size=4), max_size=2))
    header = draw(st.none() | st.lists(CELLS, max_size=4))
    rows = rows if header is None else [header, *rows]
    separator, end = draw(SEPARATORS), draw(LINE_ENDS)
    text = draw(st.sampled_from(["", "# x\n", "/NumWaves 2\n", "{"])) if draw(st.booleans()) else ""
    text += end.join(map(separator.join, rows)) + end
    return text.encode(draw(ENCODINGS), errors="replace")


@pytest.mark.parametrize("row_names", [None, "a", "1"])
def test_any_design_is_accepted_or_refused(check, row_names):
    """Cells, rows, headers, separators, ends of lines and encodings of every kind."""
    fields = FIELDS | ({} if row_names is None else {"row_names": row_names})

    @any_input
    @given(tables() | st.binary(max_size=200))
    def search(table):
        check(fields, X_csv=table)
        check(fields | {"Z": [FACTOR]}, model="blmm", z_csv=table)

    search()


PATHS = st.one_of(
    st.sampled_from(["s0.nii", '"s1.nii"', "'s2.nii'", "s3.nii,", "s*.nii", "#s1.nii", "$HOME/a"])
    | st.sampled_from(["file:///s", "C:\\s", "sub,s1.nii", "s1.nii s2.nii", "s1.nii,1", "~a/b"])
    | st.sampled_from(["", "filename", ".", "/", "..", "x" * 5000, "a/" * 3000, "\0", "Y.txt"]),
    st.text(max_size=10),
)


@st.composite
def lists(draw):
    lines = [f"s{i}.nii" for i in range(N)]
    for at, line in draw(st.lists(st.tuples(st.integers(0, N - 1), PATHS), max_size=3)):
        lines[at] = line
    lines += draw(st.lists(PATHS, max_size=2))
    return draw(LINE_ENDS).join(lines).encode(draw(ENCODINGS), errors="replace")


def test_any_list_of_images_is_accepted_or_refused(check):
    """Quotes, patterns, URLs, columns, names too long, in every encoding."""

    @any_input
    @given(lists() | st.binary(max_size=200))
    def search(content):
        check(Y_txt=content)
        check(FIELDS | {"data_mask_files": "M.txt"}, M_txt=content)

    search()


def test_any_labels_are_accepted_or_refused(check):
    @any_input
    @given(
        st.tuples(st.lists(CELLS, max_size=N + 1), LINE_ENDS, ENCODINGS).map(
            lambda drawn: drawn[1].join(drawn[0]).encode(drawn[2], errors="replace")
        )
        | st.binary(max_size=200)
    )
    def search(content):
        check(FIELDS | {"Z": [FACTOR]}, model="blmm", f_txt=content)

    search()
