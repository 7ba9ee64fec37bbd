"""Python programs in processes of their own that begin with what takes long to import.

They are forked from one that has imported it, and nothing else, for one test after the other.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

# Runs in the process of which all are forked, which has one thread.  What a program prints passes
# through pipes, since it may have no right to write files.
SERVER = """
import json, os, sys, tempfile

def begin(job, out, err):
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    tempfile.tempdir = None
    sys.path[0] = job["folder"]
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(file, number)
    exec(compile(job["program"], "<string>", "exec"), {"__name__": "__main__"})

exec(sys.argv[1])
for line in sys.stdin:
    (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        begin(json.loads(line), write_out, write_err)
        break
    os.close(write_out)
    os.close(write_err)
    # One after the other: no test says more on the second than the 64 KiB that a pipe holds.
    with open(read_out) as out, open(read_err) as err:
        said = out.read(), err.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, *said]), flush=True)
"""


class Done(NamedTuple):
    """What a program that has ended left."""

    returncode: int
    stdout: str
    stderr: str


class Forker:
    """Runs programs, one after the other, in processes in which `first` has been run."""

    def __init__(self, first: str) -> None:
        self._folder = TemporaryDirectory()  # "-c" would import from the checkout else
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, first],
            cwd=self._folder.name,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, folder: Path, environment: Mapping[str, str]) -> Done:
        """Run a program as `python -c` does in a folder, which it can import from."""
        assert self._server.stdin
        assert self._server.stdout
        job = {"program": program, "folder": str(folder), "environment": dict(environment)}
        self._server.stdin.write(f"{json.dumps(job)}\n")
        self._server.stdin.flush()
        return Done(*json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """End the process of which all are forked."""
        self._server.communicate(timeout=60)
        self._folder.cleanup()
