"""Draw the picture of the README, as `make demo` gives it, and that of a circuit.

Usage: python docs/make_pictures.py [FOLDER]

They go to docs/_static.  The circuit needs `nipype-blm ngv install`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent


def draw_demo(folder: Path) -> None:
    """Run the demo, and keep its picture."""
    with tempfile.TemporaryDirectory() as study:
        demo = [sys.executable, DOCS.parent / "examples" / "demo.py"]
        subprocess.run(demo, cwd=study, check=True)
        _keep(Path(study, "demo", "mixed_and_least_squares.png"), folder / "demo.png")


def draw_circuit(folder: Path) -> None:
    """Compute an example circuit, and keep its picture."""
    command = [sys.executable, "-m", "nipype_blm.cli.main", "ngv"]
    with tempfile.TemporaryDirectory() as study:
        subprocess.run([*command, "example", "circuit"], cwd=study, check=True)
        subprocess.run([*command, "run", "circuit", "circuit"], cwd=study, check=True)
        _keep(Path(study, "circuit", "circuit.png"), folder / "ngv_circuit.png")


def _keep(picture: Path, place: Path) -> None:
    # A palette of 192 colours takes half of the space.
    Image.open(picture).convert("RGB").quantize(192).save(place, optimize=True)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "_static"
    draw_demo(target)
    draw_circuit(target)
