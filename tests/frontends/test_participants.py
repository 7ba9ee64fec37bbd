"""Tables of participants as public data sets have them: values come of each, or one sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from nipype_blm.errors import InputError
from nipype_blm.frontends.bids import find_study
from nipype_blm.frontends.columns import type_columns
from nipype_blm.frontends.observations import select_complete

SUBJECTS = [f"{i:02d}" for i in range(1, 7)]
AGES = [21.0, 22.0, 23.0, 24.0, 25.0, 26.0]
SEXES = ["F", "M", "F", "M", "F", "M"]
IDS = [f"sub-{subject}" for subject in SUBJECTS]


class Case(NamedTuple):
    """The content of participants.tsv, and what comes of it."""

    content: str | bytes
    error: str = ""  # a part of it; "" for none
    ages: list[float] = AGES
    sexes: list[str] = SEXES
    notice: str = ""  # a part of one
    kinds: Mapping[str, str] = MappingProxyType({})
    on_missing: str = "refuse"


def table(ids=IDS, ages=(21, 22, 23, 24, 25, 26), sexes=SEXES, separator="\t", end="\n", head=None):
    lines = [head or ["participant_id", "age", "sex"], *zip(ids, ages, sexes, strict=True)]
    return "".join(separator.join(map(str, line)) + end for line in lines)


def with_age(*cells):
    """Return a table in which the last ages are others."""
    return table(ages=[*(21, 22, 23, 24, 25, 26)[: 6 - len(cells)], *cells])


def with_sex(*cells):
    return table(sexes=cells)


PLAIN = table()
NAN = float("nan")
CASES = {
    # How the file is written.
    "plain": Case(PLAIN),
    "a byte-order mark": Case("\ufeff" + PLAIN),
    "UTF-16": Case(PLAIN.encode("utf-16")),
    "UTF-16, big end first": Case(b"\xfe\xff" + PLAIN.encode("utf-16-be")),
    "UTF-16 without its mark": Case(PLAIN.encode("utf-16-le"), "Save it as UTF-8"),
    "latin-1": Case(PLAIN.replace("F", "fémin").encode("latin-1"), "CSV UTF-8"),
    "lines of Windows": Case(PLAIN.replace("\n", "\r\n")),
    "lines of old Macs": Case(PLAIN.replace("\n", "\r")),
    "no end of the last line": Case(PLAIN.rstrip()),
    "blank lines": Case(PLAIN.replace("\n", "\n\n") + "\n \n"),
    "commas": Case(table(separator=",")),
    "semicolons": Case(table(separator=";")),
    "spaces": Case(table(separator="  ")),
    "quotes": Case(table(ids=[f'"{x}"' for x in IDS], sexes=[f'"{x}"' for x in SEXES])),
    "a quote that is open": Case(PLAIN.replace("sub-03", '"sub-03'), "from line 4 on"),
    "spaces around cells": Case(table(separator=" \t ")),
    "tabs behind all lines": Case(PLAIN.replace("\n", "\t\t\n")),
    "tabs behind some lines": Case(PLAIN.replace("22\tM\n", "22\tM\t\n")),
    "rows of separators only": Case(PLAIN + "\t\t\n\t\t\n"),
    "comments above": Case("# made by hand\n# 2020\n" + PLAIN),
    "a header in a comment": Case("#" + PLAIN),
    "a line that is short": Case(PLAIN.replace("22\tM", "22"), "but 2 in line 3"),
    "a line that is long": Case(PLAIN.replace("22\tM", "22\tM\tx"), "but 4 in line 3"),
    "names of rows as R has them": Case(
        "participant_id\tage\tsex\n"
        + "".join(f"{i}\tsub-{s}\t{20 + int(s)}\t{SEXES[i]}\n" for i, s in enumerate(SUBJECTS))
    ),
    "no header": Case(PLAIN.partition("\n")[2], "has no header: its first line is 'sub-01"),
    "nothing": Case("", "is empty"),
    "a header alone": Case("participant_id\tage\tsex\n", "a header but no row"),
    "a header twice": Case(
        PLAIN.replace("age", "age\tage").replace("\t2", "\t0\t2"),
        "participants.tsv has several columns called 'age'",
    ),
    "the name of the ids twice": Case(
        "participant_id\tparticipant_id\tage\tsex\nsub-01\tCQ2\t21\tF\n",
        "participants.tsv has several columns called 'participant_id'",
    ),
    "spaces around names": Case(table(head=["participant_id ", " age ", " sex"])),
    "a spreadsheet": Case(b"PK\x03\x04 xl/workbook.xml \xff\x00", "Excel file (.xlsx); save"),
    "an image": Case(b"\x5c\x01\x00\x00\xff\xff", "is an image"),
    "JSON": Case('{"participant_id": {"Description": "x"}}', "sidecar of BIDS"),
    # Who the rows are of.
    "participant_id not first": Case(
        table(SEXES, (21, 22, 23, 24, 25, 26), IDS, head=["sex", "age", "participant_id"])
    ),
    "ids without sub-": Case(table(ids=SUBJECTS)),
    "ids with fewer zeros": Case(
        table(ids=[f"sub-{int(x)}" for x in SUBJECTS]), notice="that participants.tsv writes"
    ),
    "some ids with fewer zeros": Case(
        table(ids=["sub-1", "sub-2", *IDS[2:]]), notice="2 images are of subjects that"
    ),
    "ids that are numbers": Case(table(ids=range(1, 7)), notice="that participants.tsv writes"),
    "ids in capitals": Case(table(ids=[x.upper() for x in IDS])),
    "another name of the column": Case(table(head=["subject_id", "age", "sex"])),
    "no column of ids": Case(table(head=["code", "age", "sex"]), "no column 'participant_id'"),
    "no column of ids, nearly": Case(
        table(head=["partcipant_id", "age", "sex"]), "Is it partcipant_id?"
    ),
    "rows in another order": Case(table(IDS[::-1], (26, 25, 24, 23, 22, 21), SEXES[::-1])),
    "a subject twice": Case(PLAIN + "sub-03\t40\tM\n", "03 in lines 4, 8"),
    "a subject more": Case(PLAIN + "sub-77\t40\tM\n", notice="1 of 7 participants"),
    "a subject less": Case(PLAIN.replace("sub-06\t26\tM\n", ""), "values are missing in 1 of 6"),
    "a subject less, dropped": Case(
        PLAIN.replace("sub-06\t26\tM\n", ""),
        "",
        AGES[:5],
        SEXES[:5],
        "1 image has no row in participants.tsv: sub-06.",
        on_missing="drop",
    ),
    "one row": Case("participant_id\tage\tsex\nsub-01\t21\tF\n", "missing in 5 of 6 rows"),
    "nobody": Case(table(ids=[f"sub-A{i}" for i in range(6)]), "no row of any subject"),
    # Ages.
    "missing": Case(with_age("n/a"), "age in 1 (sub-06 task-faces)"),
    "missing, dropped": Case(with_age("n/a"), "", AGES[:5], SEXES[:5], on_missing="drop"),
    "many ways to be missing": Case(
        with_age("NaN", "", "N/A", "null", "."), "missing in 5 of 6 rows"
    ),
    "all missing": Case(with_age(*["n/a"] * 6), "'age' has no value"),
    "60+": Case(with_age("60+", "60+"), "'60+' of sub-05 task-faces and 1 more"),
    "above 89": Case(with_age(">89"), "'>89' of sub-06 task-faces is no number"),
    "in years": Case(with_age(*[f"{i} years" for i in range(20, 26)]), "'20 years'"),
    "kilograms": Case(with_age(*[f"{i}.5kg" for i in range(20, 26)]), "'20.5kg'"),
    "percent": Case(with_age(*[f"{i}%" for i in range(20, 26)]), "'20%'"),
    "dates": Case(with_age(*[f"2020-01-0{i}" for i in range(1, 7)]), "days since the start"),
    "thousands": Case(with_age("1,234", "2,345"), "thousands without a comma"),
    "decimal commas": Case(
        with_age(*[f"2{i},5" for i in range(6)]), ages=[20.5, 21.5, 22.5, 23.5, 24.5, 25.5]
    ),
    "decimal commas and points": Case(with_age("21,5", "21.5"), "all decimals with a point"),
    "decimal commas of three digits, after semicolons": Case(
        table(ages=[f"2{i},500" for i in range(6)], separator=";"), "thousands"
    ),
    "exponents": Case(with_age("2.5e1", "2600E-2"), ages=[*AGES[:4], 25, 26]),
    "underscores": Case(with_age("2_6"), "'2_6' of"),
    "infinite": Case(with_age("inf"), "'inf' of sub-06 task-faces is no number"),
    "ages like 35-40": Case(with_age("35-40"), "'35-40' of"),
    "a lone 999": Case(with_age("999"), ages=[*AGES[:5], 999], notice="999 in 1 row"),
    "-9999": Case(with_age("-9999"), ages=[*AGES[:5], -9999], notice="-9999 in 1 row"),
    "no sentinel": Case(with_age("30"), ages=[*AGES[:5], 30]),
    # Sexes.
    "words": Case(with_sex(*["female", "male"] * 3), sexes=["female", "male"] * 3),
    "cases": Case(with_sex("F", "m", "F", "M", "f", "M"), "'F' (2 rows) and 'f' (1 row)"),
    "cases that are meant": Case(
        with_sex("F", "m", "F", "M", "f", "M"),
        sexes=["F", "m", "F", "M", "f", "M"],
        kinds={"sex": "categorical"},
    ),
    "a space behind": Case(with_sex("F ", "M", "F", "M", "F", "M ")),
    "codes": Case(with_sex(1, 2, 1, 2, 1, 2), sexes=[1, 2, 1, 2, 1, 2]),
    "three codes": Case(with_sex(1, 2, 3, 2, 1, 2), sexes=[1, 2, 3, 2, 1, 2], notice="1, 2, 3"),
    "codes that are labels": Case(
        with_sex(1, 2, 1, 2, 1, 2), sexes=[*"121212"], kinds={"sex": "categorical"}
    ),
    "codes with zeros": Case(with_sex(*["01", "02"] * 3), sexes=["01", "02"] * 3),
    "TRUE and FALSE": Case(with_sex(*["TRUE", "FALSE"] * 3), sexes=["TRUE", "FALSE"] * 3),
    "TRUE among numbers": Case(with_sex("TRUE", 0, 1, 0, 1, 0), "'TRUE' of sub-01"),
    "words and some numbers": Case(
        with_sex("F", "M", "F", "M", "F", 3), sexes=["F", "M", "F", "M", "F", "3"], notice="words"
    ),
    "missing words": Case(with_sex("F", "M", "n/a", "M", "F", "M"), "sex in 1 (sub-03 task-faces)"),
    "letters of other alphabets": Case(with_sex(*["ж", "м"] * 3), sexes=["ж", "м"] * 3),
    "an unknown kind": Case(
        PLAIN, "columns={'sex': 'factor'} is not known", kinds={"sex": "factor"}
    ),
    "a kind of no column": Case(PLAIN, "Is it age?", kinds={"Age": "numeric"}),
}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("data_set")
    for subject in SUBJECTS:
        folder = root / "derivatives" / "first" / f"sub-{subject}" / "func"
        folder.mkdir(parents=True)
        name = f"sub-{subject}_task-faces_contrast-a_stat-effect_statmap.nii.gz"
        (folder / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", CASES)
def test_every_table_gives_values_or_a_sentence(name, data_set):
    case = CASES[name]
    content = case.content if isinstance(case.content, bytes) else case.content.encode()
    (data_set / "participants.tsv").write_bytes(content)

    def read():
        study = find_study(data_set)
        typed, notices = type_columns(study.frame, ["age", "sex"], case.kinds)
        whole = select_complete(
            study.__class__(typed, study.images, None, study.excluded, study.notices),
            ["age", "sex"],
            case.on_missing,
        )
        return whole, [*study.notices, *notices]

    if case.error:
        with pytest.raises(InputError) as error:
            read()
        [problem] = error.value.problems
        assert case.error in problem
        return
    study, notices = read()
    assert list(study.frame["age"]) == case.ages
    assert list(study.frame["sex"]) == case.sexes
    assert [image.path.name[4:6] for image in study.images] == SUBJECTS[: len(case.ages)]
    if case.notice:
        assert case.notice in "\n".join(notices)
    else:
        assert not notices
