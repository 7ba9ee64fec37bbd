"""A run does each thing once: it parses, plans and factorises, and hands on what it has found."""

import os
import re
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from nipype_blm.core.linalg import factorise_design
from nipype_blm.data.images import read_header
from nipype_blm.data.manifest import format_manifest
from nipype_blm.data.specfile import pack_contrasts
from nipype_blm.frontends.contrasts import normalise_contrasts, parse_vector
from nipype_blm.frontends.fields import check_fields
from nipype_blm.frontends.requests import make_request
from nipype_blm.io.tables import read_labels, scan_table
from nipype_blm.model.planning import plan_run
from nipype_blm.model.random import make_factor
from nipype_blm.stages.plan import prepare_run, write_plan

ONCE = {
    "parse": check_fields,
    "read": make_request,
    "parse contrasts": normalise_contrasts,
    "prepare": prepare_run.__wrapped__,
    "plan": plan_run,
    "QR": factorise_design,
    "fingerprint contrasts": pack_contrasts,
    "list images": format_manifest,  # of the only batch
    "write": write_plan,
}
TIMES = {  # of each contrast, table, file of labels, random factor
    "parse weights": parse_vector,
    "read a table": scan_table,
    "read labels": read_labels,
    "make a factor": make_factor,
}


@pytest.fixture
def calls(monkeypatch):
    """Calls of functions by their code, wherever they are imported, and of stat by image."""
    found = Counter()
    names = {function.__code__: name for name, function in (ONCE | TIMES).items()}
    names[read_header.__code__] = "headers"

    def note(frame, event, _):
        if event == "call" and frame.f_code in names:
            found[names[frame.f_code]] += 1

    def counting(function):
        def count(path, *arguments, **options):
            given = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
            name = Path(os.fsdecode(given)).name
            if re.fullmatch(r"s\d\d\.nii", name):
                found["stat", name] += 1
            return function(path, *arguments, **options)

        return count

    for name in ("stat", "lstat", "fstat"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    yield found
    sys.setprofile(before[0])
    threading.setprofile(before[1])


def test_a_first_run_parses_plans_and_factorises_once(study, calls):
    assert study.run().code == 0
    assert {name: calls[name] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert (calls["parse weights"], calls["read a table"]) == (2, 1)


def test_a_run_of_a_mixed_model_makes_each_factor_and_reads_each_file_once(study, calls):
    study.write("f.txt", "".join(f"{i % 4}\n" for i in range(12)))
    study.write("g.txt", "".join(f"{i // 4}\n" for i in range(12)))
    study.write("Z.csv", "1\n" * 12)
    study.write("W.csv", "1\n" * 12)
    study.model = "blmm"
    Z = [
        {"name": "subject", "factor": "f.txt", "design": "Z.csv"},
        {"name": "site", "factor": "g.txt", "design": "W.csv"},
    ]
    assert study.run("--check", Z=Z).code == 0  # compiling takes ages while calls are counted
    found = {name: calls[name] for name in TIMES}
    assert found == {
        "parse weights": 2,
        "read a table": 3,
        "read labels": 2,
        "make a factor": 2,
    }


def test_a_run_looks_at_each_image_as_often_as_safety_needs(study, calls):
    """What an image is like when the run is planned, and before and after it is read.

    Before it is opened, for its header when planning and for its voxels later, somebody could
    have put a pipe in its place, of which no run would ever see the end.  The header of the first
    image is the template of all maps.
    """
    assert study.run().code == 0
    states = {key[1]: n for key, n in calls.items() if isinstance(key, tuple)}
    assert len(states) == 12
    assert states.pop("s00.nii") <= 6
    assert max(states.values()) <= 5


def test_a_run_that_has_nothing_to_do_does_each_thing_once(study, calls):
    study.run()
    calls.clear()
    result = study.run()
    assert "Nothing to do" in result.out
    once = set(ONCE) - {"write"}
    assert {name: calls[name] for name in once} == dict.fromkeys(once, 1)
    assert calls["write"] == 0


def test_a_check_does_each_thing_once_and_writes_nothing(study, calls):
    assert study.run("--check").code == 0
    assert calls["write"] == calls["list images"] == 0
    for name in ("parse", "prepare", "plan", "QR"):
        assert calls[name] == 1


def test_no_node_plans_any_more(study):
    assert study.run(keep="all").code == 0
    folder = study.outdir / "work" / "blm_wf"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *("plan_files", "products", "estimates", "contrasts", "assemble", "logs")
    }
