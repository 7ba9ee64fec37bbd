"""``blm CONFIG.yml``: the command of a linear model."""

from functools import partial

from nipype_blm.cli import fit
from nipype_blm.cli.command import run_process

main = fit.main  # of ``blm`` unless another model is given
command = partial(run_process, main)  # as a process of its own

if __name__ == "__main__":
    command()
