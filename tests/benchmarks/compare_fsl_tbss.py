"""Is what `nipype-blm tbss` finds what FSL's TBSS finds?  Needs FSL; it was not there to run this.

Usage: python compare_fsl_tbss.py FOLDER_OF_FA WORK

Both take the images of a folder to FMRIB58_FA_1mm.  Tolerances are guesses of what two
registrations of the same images may differ by: mean FA correlates above 0.95 where both have it;
nine voxels of ten of either skeleton lie within 2 mm of the other one; the mean of each image on
its skeleton differs by less than 0.02, with a correlation over images above 0.9.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

STEPS = (
    "tbss_1_preproc *.nii.gz",
    "tbss_2_reg -T",
    "tbss_3_postreg -S",
    "tbss_4_prestats 0.2",
)


def run_fsl(images: list[Path], folder: Path) -> Path:
    """Run FSL's four steps; return its folder stats."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in images:
        shutil.copy(path, folder / path.name)
    for step in STEPS:
        subprocess.run(step, shell=True, check=True, cwd=folder)
    return folder / "stats"


def run_ours(images: list[Path], folder: Path, template: Path, rule: Path) -> Path:
    """Run ours; return its folder stats."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "images.txt"
    listed.write_text("".join(f"{path.absolute()}\n" for path in images))
    tool = Path(sys.executable).with_name("nipype-blm")
    command = [tool, "tbss", listed, folder / "out", "--template", template, "--tubular-mask", rule]
    subprocess.run(command, check=True)
    return folder / "out" / "stats"


def load(path: Path) -> np.ndarray:
    """Return the values of an image."""
    return nib.load(path).get_fdata(dtype=np.float32)


def main() -> None:
    """Run both and say whether they agree."""
    images = sorted(Path(sys.argv[1]).glob("*.nii.gz"))
    work = Path(sys.argv[2]).absolute()
    standard = Path(os.environ["FSLDIR"], "data", "standard")
    template, rule = standard / "FMRIB58_FA_1mm.nii.gz", standard / "LowerCingulum_1mm.nii.gz"
    stats = [run_fsl(images, work / "fsl"), run_ours(images, work / "ours", template, rule)]
    means = [load(folder / "mean_FA.nii.gz") for folder in stats]
    skeletons = [load(folder / "mean_FA_skeleton_mask.nii.gz") > 0 for folder in stats]
    both = (means[0] > 0) & (means[1] > 0)
    checks = {"correlation of mean FA": (np.corrcoef(means[0][both], means[1][both])[0, 1], 0.95)}
    for name, one, other in (("FSL's", *skeletons), ("our", *skeletons[::-1])):
        near = ndimage.distance_transform_edt(~other) <= 2
        checks[f"share of {name} skeleton within 2 mm of the other"] = (near[one].mean(), 0.9)
    values = [
        load(folder / "all_FA_skeletonised.nii.gz")[skeleton].mean(axis=0)
        for folder, skeleton in zip(stats, skeletons, strict=True)
    ]
    checks["correlation of means over images"] = (np.corrcoef(*values)[0, 1], 0.9)
    checks["0.02 less the largest difference of a mean"] = (
        0.02 - abs(values[0] - values[1]).max(),
        0,
    )
    for name, (value, least) in checks.items():
        print(
            f"{'agrees' if value >= least else 'DIFFERS'}: {name}: {value:.4g} (at least {least:g})"
        )
    sys.exit(any(value < least for value, least in checks.values()))


if __name__ == "__main__":
    main()
