import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING_TESTS = """
import pytest

def test_body():
    pytest.skip("reason A")

@pytest.mark.skip(reason="reason B")
def test_mark():
    pass

def test_fixture(require_command):
    require_command("no-such-command", "no-such-package")

@pytest.mark.xfail
def test_known_failure():
    assert False
"""
SKIPPING_MODULE = 'import pytest\npytest.skip("reason C", allow_module_level=True)'
REASONS = ["reason A", "reason B", "reason C", "apt-get install no-such-package"]


@pytest.mark.parametrize(("no_skips", "exit_code"), [("0", 0), ("1", 1)])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_skips_fail_only_when_they_are_forbidden(no_skips, exit_code, workers, tmp_path):
    for name in ("conftest.py", "children.py", "circuits.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    (tmp_path / "test_some.py").write_text(SKIPPING_TESTS)
    (tmp_path / "test_module.py").write_text(SKIPPING_MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-n", workers, "--continue-on-collection-errors"],
        cwd=tmp_path,
        env={**os.environ, "NIPYPE_BLM_NO_SKIPS": no_skips, "CI": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == exit_code, run.stdout
    for reason in REASONS:
        assert reason in run.stdout
    assert "1 xfailed" in run.stdout
