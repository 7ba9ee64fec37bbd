"""Make a small BIDS data set: effects of faces in 20 people, scanned two to four times each.

Usage: python examples/make_bids.py [FOLDER]

FOLDER is ./bids if not given.  Nothing is downloaded: the brain is the one that nilearn ships.
Names are those of fMRIPrep and nilearn; all values are made up.  The response to faces grows with
age in the left temporal lobe, and over the years of the study in the right frontal lobe; it is
the same at all three sites.  The images of a person resemble each other everywhere.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

SEED = 0
N_PEOPLE = 20
N_VISITS = (2, 3, 4)  # of as many people each
NOISE_SD = 3.0
PERSON_SD = 3.6  # what the images of a person share: an intraclass correlation of 0.59
SMOOTHNESS = 1.0  # voxels, standard deviation of the kernel
SPACE = "MNI152NLin6Asym"


class Effect(NamedTuple):
    """A true effect: the same at every voxel of a sphere, 0 elsewhere."""

    column: str  # of the design
    place: str
    centre: tuple[int, int, int]  # mm, MNI
    radius: int  # mm
    size: float  # change of the image for one unit of the column


AGE = Effect("age", "left temporal lobe", (-50, -20, -12), 16, 0.3)
YEARS = Effect("years", "right frontal lobe", (36, 40, 20), 18, 2.0)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description="Make a small BIDS data set with known effects.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("bids"))
    folder = parser.parse_args().folder
    n_images = write_data_set(folder)
    print(f"{folder} has maps of {n_images} images of {N_PEOPLE} people")


def write_data_set(folder: Path, seed: int = SEED) -> int:
    """Write tables of people and visits, maps of the first level and brain masks; count the maps.

    Parameters
    ----------
    folder : Path
    seed : int
        Another one gives other people, visits, masks and noise, with the same effects.
    """
    brain = load_brain()
    inside = np.asarray(brain.dataobj) > 0
    of_age, of_years = (make_sphere(brain.affine, inside, each) for each in (AGE, YEARS))
    rng = np.random.default_rng(seed)
    n_visits = rng.permutation(np.resize(N_VISITS, N_PEOPLE))
    sites = rng.permutation(np.resize(["A", "B", "C"], N_PEOPLE))
    for name in ("", "derivatives/fmriprep", "derivatives/firstlevel"):
        write_description(folder / name)
    lines = ["participant_id\tage\tsex\tsite"]
    for i in range(N_PEOPLE):
        subject, age = f"sub-{i + 1:02d}", int(rng.integers(20, 80))
        lines.append(f"{subject}\t{age}\t{'FM'[i % 2]}\t{sites[i]}")
        visits = make_visits(rng, n_visits[i])
        write_visits(folder / subject / f"{subject}_sessions.tsv", visits)
        of_person = PERSON_SD * make_smooth_noise(rng, inside.shape)
        for session, years in visits.items():
            values = of_person + NOISE_SD * make_smooth_noise(rng, inside.shape)
            values += of_age * (age - 50) + of_years * years
            mask = cut_mask(rng, inside)
            place = Path(subject, session, "func")
            start = f"{subject}_{session}_task-faces_space-{SPACE}"
            map_name = f"{start}_contrast-faces_stat-effect_statmap.nii.gz"
            maps, masks = (folder / "derivatives" / name for name in ("firstlevel", "fmriprep"))
            write_image(maps / place / map_name, values * mask, brain.affine, np.float32)
            mask_name = f"{start}_desc-brain_mask.nii.gz"
            write_image(masks / place / mask_name, mask, brain.affine, np.uint8)
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return int(n_visits.sum())


@functools.cache
def load_brain() -> nib.Nifti1Image:
    """Return the brain mask of the MNI template, with voxels of 4 mm."""
    from nilearn.datasets import load_mni152_brain_mask

    return load_mni152_brain_mask(resolution=4)


def make_visits(rng: np.random.Generator, n_visits: int) -> dict[str, float]:
    """Return the years since the first visit, by session: some of the three yearly ones after it.

    Who missed a visit lacks its session: ses-1 and ses-3, say.
    """
    later = np.sort(rng.choice([2, 3, 4], n_visits - 1, replace=False))
    years = (later - 1 + rng.uniform(-0.25, 0.25, later.size)).round(1)
    return {"ses-1": 0.0} | {f"ses-{n}": year for n, year in zip(later, years, strict=True)}


def write_visits(path: Path, visits: dict[str, float]) -> None:
    """Write the sessions.tsv of a person."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{session}\t{years:.1f}" for session, years in visits.items()]
    path.write_text("\n".join(["session_id\tyears", *rows]) + "\n")


def write_description(folder: Path) -> None:
    """Write dataset_description.json."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name or "study"
    kind = "derivative" if folder.parent.name == "derivatives" else "raw"
    said = {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind}
    (folder / "dataset_description.json").write_text(json.dumps(said, indent=1) + "\n")


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
    """Write an image in MNI space, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values.astype(dtype), affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    nib.save(image, path)


if __name__ == "__main__":
    main()
