"""Draw the picture of the README, docs/_static/from_bids.png, as its first commands give it.

Usage: python docs/make_pictures.py [FOLDER]
"""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from PIL import Image

from nipype_blm.report.figures import plot_z_maps

DOCS = Path(__file__).parent
FORMULA = "~ age + session + (1 | subject)"


def draw(folder: Path) -> None:
    """Make the data set, fit it, and draw the z maps."""
    fit = Path(sysconfig.get_path("scripts"), "nipype-blm")
    with tempfile.TemporaryDirectory() as study:
        make = [sys.executable, DOCS.parent / "examples" / "make_bids.py", "bids"]
        subprocess.run(make, cwd=study, check=True)
        options = ["--formula", FORMULA, "--contrast", "faces", "--stat", "effect", "--quiet"]
        subprocess.run([fit, "fit", "bids", "results", *options], cwd=study, check=True)
        plot_z_maps(Path(study, "results"), Path(study, "maps.png"))
        # A palette of 192 colours takes half of the space.
        Image.open(Path(study, "maps.png")).convert("RGB").quantize(192).save(
            folder / "from_bids.png", optimize=True
        )


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "_static")
