"""Draw the picture of the README, docs/_static/demo.png, as `make demo` gives it.

Usage: python docs/make_pictures.py [FOLDER]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent


def draw(folder: Path) -> None:
    """Run the demo, and keep its picture."""
    with tempfile.TemporaryDirectory() as study:
        demo = [sys.executable, DOCS.parent / "examples" / "demo.py"]
        subprocess.run(demo, cwd=study, check=True)
        picture = Image.open(Path(study, "demo", "mixed_and_least_squares.png"))
        # A palette of 192 colours takes half of the space.
        picture.convert("RGB").quantize(192).save(folder / "demo.png", optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "_static")
