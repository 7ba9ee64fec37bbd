"""Make a small study with repeated measures, fit it with the `blmm` command, and draw the maps.

Usage: python examples/blmm_demo.py [FOLDER]

FOLDER is ./blmm_demo if not given.  Nothing is downloaded.  The first run on a machine
compiles the fitting routines, which takes about a minute.
"""

import argparse
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from make_bids import Effect, cut_mask, load_brain, make_smooth_noise, make_sphere, write_image

N_PEOPLE = 40
VISITS = (2, 3, 4, 5)  # of as many people each
BASELINE = 100.0
NOISE_SD = 4.0
INTERCEPT_SD = 2.0  # between people, where nothing else is said

# The size of the last two is a standard deviation between people.
EFFECTS = (
    Effect("years", "left temporal lobe", (-50, -20, -12), 16, -1.5),
    Effect("intercept", "right frontal lobe", (36, 40, 20), 18, 8.0),
    Effect("years", "occipital lobe", (0, -84, 4), 18, 2.0),
)

CONFIGURATION = """\
Y_files: images.txt          # one image a line
X: design.csv                # one row for each image
Z:
  - f1:
      name: person
      factor: person.txt     # whose image it is, one label a line
      design: random.csv     # every person has an intercept and a slope of their own
outdir: results
analysis_mask: mask.nii.gz
Missingness:
  MinPercent: 80%            # a voxel needs data in four of five images
contrasts:
  - c1:
      name: years
      vector: [0, 1, 0]
  - c2:
      name: years or group
      vector: [[0, 1, 0], [0, 0, 1]]
"""


class People(NamedTuple):
    """Who was scanned when; one entry for each image."""

    person: np.ndarray
    years: np.ndarray  # from the middle of the person's visits
    group: np.ndarray  # 0 or 1


def main() -> None:
    """Write the study, fit it, and say what was found."""
    parser = argparse.ArgumentParser(description="Fit a small study with repeated measures.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("blmm_demo"))
    folder = parser.parse_args().folder.absolute()
    people = make_people()
    print(f"Writing {people.person.size} images of {N_PEOPLE} people to {folder}", flush=True)
    write_study(folder, people)
    config = folder / "blmm.yml"
    print(f"\n$ blmm {config}", flush=True)
    blmm = Path(sysconfig.get_path("scripts"), "blmm")
    subprocess.run([blmm, config], check=True)
    print(f"\n{describe_effects(folder)}\n\nDrawing the maps", flush=True)
    print(f"Tests: {draw_tests(folder)}\nVariances: {draw_variances(folder)}")


def make_people() -> People:
    """Return 40 people with two to five yearly visits each."""
    n_visits = np.resize(VISITS, N_PEOPLE)
    years = np.concatenate([np.arange(n) - (n - 1) / 2 for n in n_visits])
    person = np.repeat(np.arange(N_PEOPLE), n_visits)
    return People(person, years, person // len(VISITS) % 2)


def write_study(folder: Path, people: People) -> None:
    """Write images, design, random factor, mask, true effects and configuration."""
    brain = load_brain()
    inside = np.asarray(brain.dataobj) > 0
    rng = np.random.default_rng(2023)
    slope, sd_intercept, sd_slope = (make_sphere(brain.affine, inside, e) for e in EFFECTS)
    sd_intercept = np.where(inside, np.maximum(sd_intercept, INTERCEPT_SD), 0.0)

    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [
        f"images/sub-{i + 1:02d}_years-{t:+.1f}.nii.gz"
        for i, t in zip(people.person, people.years, strict=True)
    ]
    for i in range(N_PEOPLE):
        intercept = sd_intercept * make_smooth_noise(rng, inside.shape)
        own_slope = slope + sd_slope * make_smooth_noise(rng, inside.shape)
        for image in np.flatnonzero(people.person == i):
            noise = NOISE_SD * make_smooth_noise(rng, inside.shape)
            values = BASELINE + intercept + own_slope * people.years[image] + noise
            values *= cut_mask(rng, inside)
            write_image(folder / names[image], values, brain.affine, np.float32)
    truth = np.stack([slope, sd_intercept**2, sd_slope**2], axis=-1)
    write_image(folder / "truth.nii.gz", truth, brain.affine, np.float32)
    write_image(folder / "mask.nii.gz", inside, brain.affine, np.uint8)
    (folder / "images.txt").write_text("\n".join(names) + "\n")
    (folder / "person.txt").write_text("".join(f"sub-{i + 1:02d}\n" for i in people.person))
    (folder / "blmm.yml").write_text(CONFIGURATION)
    ones = np.ones(people.person.size)
    write_table(folder / "design.csv", intercept=ones, years=people.years, group=people.group)
    write_table(folder / "random.csv", intercept=ones, years=people.years)
    write_table(folder / "intercept.csv", intercept=ones)  # for mixed_pipeline.py


def write_table(path: Path, **columns: np.ndarray) -> None:
    """Write a table with a header."""
    rows = np.column_stack(list(columns.values()))
    np.savetxt(path, rows, "%g", ",", header=",".join(columns), comments="")


def read(folder: Path, name: str) -> np.ndarray:
    """Return the values of a map."""
    return nib.load(folder / name).get_fdata()


def find_spheres(folder: Path) -> list[np.ndarray]:
    """Return where each effect was put in."""
    mask = nib.load(folder / "mask.nii.gz")
    inside = np.asarray(mask.dataobj) > 0
    return [make_sphere(mask.affine, inside, effect) != 0 for effect in EFFECTS]


def describe_effects(folder: Path) -> str:
    """Return what is true and what was estimated, averaged over voxels."""
    truth = read(folder, "truth.nii.gz")
    fitted = read(folder, "results/blmm_vox_mask.nii") > 0
    beta = read(folder, "results/blmm_vox_beta.nii")
    varcomp = read(folder, "results/blmm_vox_varcomp.nii")
    estimates = {  # volumes of varcomp: intercept, intercept x years, years
        "effect of years": beta[..., 1],
        "variance of intercepts": varcomp[..., 0],
        "variance of slopes": varcomp[..., 2],
    }
    lines = [f"{'':<24}{'where':<20}{'true':>7}{'estimate':>10}{'elsewhere':>11}{'estimate':>10}"]
    for i, (name, estimate) in enumerate(estimates.items()):
        sphere = find_spheres(folder)[i]
        means = [
            values[fitted & where].mean()
            for where in (sphere, ~sphere)
            for values in (truth[..., i], estimate)
        ]
        numbers = "{:>7.2f}{:>10.2f}{:>11.2f}{:>10.2f}".format(*means)
        lines.append(f"{name:<24}{EFFECTS[i].place:<20}{numbers}")
    return "\n".join(lines)


def draw_tests(folder: Path) -> Path:
    """Draw the z maps, with the sphere of the true effect."""
    from nipype_blm.report.figures import plot_z_maps

    figure = folder / "z_maps.png"
    title = "z maps over the MNI template; the green line shows where the true effect is"
    plot_z_maps(folder / "results", figure, outline=outline(folder, [0]), title=title)
    return figure


def draw_variances(folder: Path) -> Path:
    """Draw intraclass correlation, variance of slopes and status, with the true spheres."""
    from nipype_blm.report.figures import plot_maps

    results, figure = folder / "results", folder / "variances.png"
    D = nib.load(results / "blmm_vox_D.nii")
    status = nib.load(results / "blmm_vox_status.nii")
    at_boundary = (status.get_fdata() == 3).astype(np.uint8)
    maps = {
        "Intraclass correlation of a person's images": nib.squeeze_image(
            nib.load(results / "blmm_vox_icc.nii")
        ),
        "D of slopes: their variance, relative to the residual one": D.slicer[..., 2],
        "Voxels at the boundary: D has no inverse": nib.Nifti1Image(at_boundary, D.affine),
    }
    title = "Variance between people; green lines show where more of it was put in"
    plot_maps(maps, figure, outline=outline(folder, [1, 2]), title=title)
    return figure


def outline(folder: Path, numbers: list[int]) -> nib.Nifti1Image:
    """Return the spheres of some effects as an image."""
    spheres = find_spheres(folder)
    values = np.any([spheres[i] for i in numbers], axis=0).astype(np.uint8)
    return nib.Nifti1Image(values, nib.load(folder / "mask.nii.gz").affine)


if __name__ == "__main__":
    main()
