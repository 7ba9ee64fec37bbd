"""``blmm CONFIG.yml``: the command of a mixed model."""

from collections.abc import Sequence

from nipype_blm.cli import blm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return blm.main(argv, "blmm")


def command() -> None:
    """Run `main` as a process of its own."""
    blm.command("blmm")


if __name__ == "__main__":
    command()
