"""``blmm CONFIG.yml``: the command of a mixed model."""

from functools import partial

from nipype_blm.cli import fit
from nipype_blm.cli.command import run_process

main = partial(fit.main, model="blmm")
command = partial(run_process, main)  # as a process of its own

if __name__ == "__main__":
    command()
