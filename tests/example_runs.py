"""Run the examples as users do."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run_example(name: str | Path, *arguments: str, cwd: Path) -> str:
    """Return what an example prints; a changed copy of one finds what it imports."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    env = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
