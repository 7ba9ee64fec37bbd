"""Products by which commands are known to be done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nipype_blm.errors import InputError
from nipype_blm.tasks.commandlist import Command
from nipype_blm.tasks.products import Products


def make(tmp_path, *names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("{3}_warp.nii*", "fsl_reg a b a_to_b -e", True),
        ("{3}_warp.nii*", "fsl_reg a b b_to_a -e", False),
        ("{3}.msf", "fsl_reg a b b_to_a -e", True),
        ("out/{1}_?.txt", "tool x", True),
        ("out/{1}_?.txt", "tool y", False),
        ("{1}", "tool 'a [1].txt'", True),
        ("{1}*", "tool 'a [1]'", True),
        ("{1}*", "tool 'a [12]'", False),
        ("o*/{1}_1.txt", "tool x", True),
        ("*.hid", "tool x", False),
        (".*{1}", "tool hid", True),
    ],
)
def test_a_product_is_found_by_a_word_of_its_command_now_and_in_the_list(
    tmp_path, template, text, expected
):
    make(tmp_path, "a_to_b_warp.nii.gz", "b_to_a.msf", "out/x_1.txt", "out/y_10.txt", "a [1].txt")
    make(tmp_path, ".x.hid", "a 1.txt")
    products = Products(template, str(tmp_path))
    assert products.is_there(Command(text, 1)) == expected
    assert products.is_listed(Command(text, 1)) == expected


NAMES = st.lists(st.text("ab*?[]", min_size=1, max_size=4), max_size=8)


@given(NAMES, st.text("ab*?[]", min_size=1, max_size=3), st.text("ab*?", max_size=3))
def test_the_list_says_what_the_disk_says(tmp_path_factory, names, word, end):
    folder = tmp_path_factory.mktemp("any")
    make(folder, *names)
    command = Command(f"tool '{word}'", 1)
    products = Products(f"{{1}}{end}", str(folder))
    assert products.is_listed(command) == products.is_there(command)


def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path):
    folder = tmp_path / "run[1]*"
    make(folder.parent, "run[1]*/x.txt")
    products = Products("{1}.txt", str(folder))
    assert products.is_there(Command("tool x", 1))
    assert products.is_listed(Command("tool x", 1))
    assert not products.is_listed(Command("tool y", 1))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("*_warp.nii", "is the same for all commands"),
        ("{out}.nii", "is the same for all commands"),
        ("{1}_{4}.nii", r"names word 4 of each command .*2 commands lacks? \(line 1, 2\)"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused(template, words):
    commands = [Command("fsl_reg a b c", 1), Command("fsl_reg a", 2), Command("a b c d e", 3)]
    with pytest.raises(InputError, match=words):
        Products(template, "/").check(commands)
