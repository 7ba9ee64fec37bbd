"""Progress is shown in plain lines where there is no terminal."""

from nipype_blm.cli.progress import show_progress
from nipype_blm.progress import advance


def test_each_tenth_gives_one_line(capsys):
    with show_progress({"images": 100, "voxels": 7}):
        for _ in range(100):
            advance("images", 1)
        advance("voxels", 7)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines == [
        *[f"reading images: {n} of 100" for n in range(10, 101, 10)],
        "fitting voxels: 7 of 7",
    ]


def test_quiet_shows_nothing(capsys):
    with show_progress({"images": 1, "voxels": 1}, quiet=True):
        advance("images", 1)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_of_what_happens_after_it_ends(capsys):
    with show_progress({"images": 2, "voxels": 1}):
        pass
    advance("images", 2)
    assert capsys.readouterr() == ("", "")
