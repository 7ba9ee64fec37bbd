"""Make a small study with known effects, fit it with the `blm` command, and draw what came out.

Usage: python examples/blm_demo.py [FOLDER]

FOLDER is ./blm_demo if not given.  Nothing is downloaded: the brain is the one that nilearn ships.
"""

import argparse
import csv
import subprocess
import sysconfig
from pathlib import Path

import nibabel as nib
import numpy as np
from make_bids import Effect, cut_mask, load_brain, make_smooth_noise, make_sphere, write_image

N_IMAGES = 60
BASELINE = 100.0
NOISE_SD = 5.0

EFFECTS = (
    Effect("age", "left temporal lobe", (-50, -20, -12), 16, -2.5),
    Effect("group", "right frontal lobe", (36, 40, 20), 18, 6.0),
)

CONFIGURATION = """\
Y_files: images.txt          # one image a line
X: design.csv                # one row for each image
outdir: results
analysis_mask: mask.nii.gz
Missingness:
  MinPercent: 50%            # a voxel needs data in half of the images
contrasts:
  - c1:
      name: age
      vector: [0, 1, 0]
  - c2:
      name: group
      vector: [0, 0, 1]
  - c3:
      name: age or group
      vector: [[0, 1, 0], [0, 0, 1]]
"""


def main() -> None:
    """Write the study, fit it, and say what was found."""
    parser = argparse.ArgumentParser(description="Fit a small made-up study and draw the maps.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("blm_demo"))
    folder = parser.parse_args().folder.absolute()
    print(f"Writing {N_IMAGES} images with known effects to {folder}", flush=True)
    write_study(folder)
    config = folder / "blm.yml"
    print(f"\n$ blm {config}", flush=True)
    blm = Path(sysconfig.get_path("scripts"), "blm")
    subprocess.run([blm, config], check=True)
    print(f"\n{describe_effects(folder)}\n\nDrawing the maps", flush=True)
    figure = folder / "z_maps.png"
    n_shown = draw(folder, figure)
    print(f"z maps of {n_shown} contrasts, thresholded: {figure}")


def write_study(folder: Path) -> None:
    """Write images, design, mask, true effects and configuration."""
    brain = load_brain()
    inside = np.asarray(brain.dataobj) > 0
    rng = np.random.default_rng(2022)
    design = make_design(rng)
    columns = ["intercept", *(effect.column for effect in EFFECTS)]
    truth = np.stack([make_sphere(brain.affine, inside, effect) for effect in EFFECTS], axis=-1)

    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/sub-{i + 1:02d}.nii.gz" for i in range(N_IMAGES)]
    for name, row in zip(names, design, strict=True):
        noise = NOISE_SD * make_smooth_noise(rng, inside.shape)
        image = (BASELINE + truth @ row[1:] + noise) * cut_mask(rng, inside)
        write_image(folder / name, image, brain.affine, np.float32)
    write_image(folder / "mask.nii.gz", inside, brain.affine, np.uint8)
    write_image(folder / "true_effects.nii.gz", truth, brain.affine, np.float32)
    (folder / "images.txt").write_text("\n".join(names) + "\n")
    (folder / "blm.yml").write_text(CONFIGURATION)
    with (folder / "design.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(design.round(6).tolist())


def make_design(rng: np.random.Generator) -> np.ndarray:
    """Return intercept, age (decades from the mean) and group (0 or 1) of every person."""
    age = rng.uniform(20, 80, N_IMAGES).round() / 10
    group = np.arange(N_IMAGES) % 2
    return np.column_stack([np.ones(N_IMAGES), (age - age.mean()).round(6), group])


def describe_effects(folder: Path) -> str:
    """Return true and estimated effects, averaged over the voxels of each sphere."""
    truth = nib.load(folder / "true_effects.nii.gz").get_fdata()
    beta = nib.load(folder / "results" / "blm_vox_beta.nii").get_fdata()
    fitted = nib.load(folder / "results" / "blm_vox_mask.nii").get_fdata() > 0
    lines = [f"{'effect':<8}{'where':<22}{'voxels':>7}{'true':>8}{'estimate':>10}{'elsewhere':>11}"]
    for i, effect in enumerate(EFFECTS):
        sphere = truth[..., i] != 0
        there, elsewhere = (beta[..., i + 1][fitted & where].mean() for where in (sphere, ~sphere))
        lines.append(
            f"{effect.column:<8}{effect.place:<22}{np.sum(fitted & sphere):>7}"
            f"{effect.size:>8.2f}{there:>10.2f}{elsewhere:>11.2f}"
        )
    return "\n".join(lines)


def draw(folder: Path, figure: Path) -> int:
    """Draw the z maps with the true spheres as outlines; return how many there are."""
    from nipype_blm.report.figures import plot_z_maps

    truth = nib.load(folder / "true_effects.nii.gz")
    spheres = nib.Nifti1Image((truth.get_fdata() != 0).any(axis=-1).astype(np.uint8), truth.affine)
    title = "z maps over the MNI template; the green lines show where the true effects are"
    return len(plot_z_maps(folder / "results", figure, outline=spheres, title=title))


if __name__ == "__main__":
    main()
