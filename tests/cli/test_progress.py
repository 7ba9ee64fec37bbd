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


def test_a_node_that_has_ended_or_failed_no_longer_runs(capsys):
    with show_progress({"images": 1, "voxels": 1}) as tell:
        for status in ("start", "start", "end", "start", "exception"):
            tell(None, status)
    assert capsys.readouterr().err.splitlines() == [
        "nodes: 1 done, 1 running, 0 failed",
        "nodes: 1 done, 1 running, 1 failed",
    ]


def test_a_terminal_shows_a_bar_for_what_has_begun_and_the_nodes(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes anything for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with show_progress({"images": 5, "voxels": 7}) as tell:
        for status in ("start", "start", "end", "exception"):
            tell(None, status)
        advance("images", 3)
    err = capsys.readouterr().err
    assert "nodes: 1 done, 0 running, 1 failed" in err
    assert "reading images" in err
    assert "3/5" in err
    assert "fitting voxels" not in err
