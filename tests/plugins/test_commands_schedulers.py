"""A list of commands on a pool of a real Slurm, which loses a worker and a job."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from faults.runs import ARGUMENTS

LIMIT_S = 240
N_COMMANDS = 200
# No shell is left that could go on when the sleep alone is killed first.
LOST = "test -e {0} || {{ touch {0}; {1}; exec sleep 60; }}; echo {2} >> ran"


def test_a_list_survives_the_loss_of_a_worker_and_of_a_job(
    slurm: Any, tmp_path: Path, wait_until: Callable
) -> None:
    lines = [f"sleep 0.02; echo {i} >> ran" for i in range(N_COMMANDS)]
    lines[50] = LOST.format("worker_lost", "kill -9 $PPID", 50)
    lines[120] = LOST.format("job_lost", "scancel $SLURM_JOB_ID", 120)
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    arguments = ARGUMENTS["slurm"] | {"job_name": "commands-of-a-list"}
    (tmp_path / "workers.yml").write_text(yaml.safe_dump(arguments))
    options = ["list.txt", "--cluster", "slurm", "--n-workers", "2", "--plugin-args", "workers.yml"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nipype_blm.cli.main", "commands", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{N_COMMANDS} of {N_COMMANDS} commands done" in done.stdout
    assert (tmp_path / "worker_lost").exists()
    assert (tmp_path / "job_lost").exists()
    runs = Counter((tmp_path / "ran").read_text().split())
    assert runs == Counter(map(str, range(N_COMMANDS)))
    wait_until(
        lambda: not any(job.name == "commands-of-a-list" for job in slurm.jobs()),
        60,
        "all jobs have ended",
    )
