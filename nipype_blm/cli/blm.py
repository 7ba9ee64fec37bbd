"""``blm CONFIG.yml``: the command of a linear model."""

from collections.abc import Sequence

from nipype_blm.cli import fit
from nipype_blm.cli.command import run_process


def main(argv: Sequence[str] | None = None, model: str = "blm") -> int:
    """Run the command of a model, ``blm`` or ``blmm``; return its exit code."""
    return fit.main(argv, model)


def command() -> None:
    """Run `main` as a process of its own."""
    run_process(main)


if __name__ == "__main__":
    command()
