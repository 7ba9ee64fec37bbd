"""Make a small study with known effects, fit it with the `blm` command, and draw what came out.

Usage: python examples/demo.py [FOLDER]

FOLDER is ./demo if not given.  Nothing is downloaded: the brain is the one that nilearn ships.
"""

import argparse
import csv
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

N_IMAGES = 60
BASELINE = 100.0
NOISE_SD = 5.0
SMOOTHNESS = 1.0  # voxels, standard deviation of the kernel


class Effect(NamedTuple):
    """A true effect: the same at every voxel of a sphere, 0 elsewhere."""

    column: str  # of the design
    place: str
    centre: tuple[int, int, int]  # mm, MNI
    radius: int  # mm
    size: float  # change of the image for one unit of the column


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
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
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
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=4)
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


def make_sphere(affine: np.ndarray, inside: np.ndarray, effect: Effect) -> np.ndarray:
    """Return the size of an effect at every voxel."""
    voxels = np.moveaxis(np.indices(inside.shape), 0, -1)
    distance = np.linalg.norm(nib.affines.apply_affine(affine, voxels) - effect.centre, axis=-1)
    return np.where((distance <= effect.radius) & inside, effect.size, 0.0)


def make_smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return smooth noise with standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), SMOOTHNESS, mode="wrap")
    return noise / noise.std()


def cut_mask(rng: np.random.Generator, inside: np.ndarray) -> np.ndarray:
    """Return a brain mask of its own: a ragged edge, and a top or bottom that was not scanned."""
    depth = ndimage.distance_transform_edt(inside)
    raggedness = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 3)
    mask = inside & (depth >= 1 + 1.5 * raggedness / raggedness.std())
    heights = np.flatnonzero(inside.any(axis=(0, 1)))
    n_cut = rng.integers(0, 7)
    mask[:, :, heights[:n_cut] if rng.random() < 0.7 else heights[len(heights) - n_cut :]] = False
    return mask


def write_image(path: Path, values: np.ndarray, affine: np.ndarray, dtype: type) -> None:
    """Write an image in MNI space."""
    image = nib.Nifti1Image(values.astype(dtype), affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    nib.save(image, path)


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
    title = "Demo: z maps over the MNI template; the green lines show where the true effects are"
    return len(plot_z_maps(folder / "results", figure, outline=spheres, title=title))


if __name__ == "__main__":
    main()
