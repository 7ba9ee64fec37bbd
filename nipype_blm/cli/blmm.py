"""``blmm CONFIG.yml``: the command of a mixed model."""

from collections.abc import Sequence

from nipype_blm.cli import fit
from nipype_blm.cli.command import run_process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return fit.main(argv, "blmm")


def command() -> None:
    """Run `main` as a process of its own."""
    run_process(main)


if __name__ == "__main__":
    command()
