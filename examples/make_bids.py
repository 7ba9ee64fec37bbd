"""Make a small BIDS data set: effects of faces in 24 people, scanned twice each.

Usage: python examples/make_bids.py [FOLDER]

FOLDER is ./bids if not given.  Nothing is downloaded: the brain is the one that nilearn ships.
Names are those of fMRIPrep and nilearn; all values are made up, with an effect of age in the left
temporal lobe and one of the second session in the right frontal lobe.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from demo import Effect, cut_mask, make_smooth_noise, make_sphere, write_image

N_PEOPLE = 24
NOISE_SD = 3.0
PERSON_SD = 4.0  # what the two images of a person share
SPACE = "MNI152NLin6Asym"
EFFECTS = (
    Effect("age", "left temporal lobe", (-50, -20, -12), 16, 0.3),
    Effect("session", "right frontal lobe", (36, 40, 20), 18, 5.0),
)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description="Make a small BIDS data set with known effects.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("bids"))
    folder = parser.parse_args().folder
    n_images = write_data_set(folder)
    print(f"{folder} has maps of {n_images} images of {N_PEOPLE} people")


def write_data_set(folder: Path) -> int:
    """Write participants, maps of the first level and brain masks; return how many maps."""
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=4)
    inside = np.asarray(brain.dataobj) > 0
    rng = np.random.default_rng(2026)
    of_age, of_session = (make_sphere(brain.affine, inside, each) for each in EFFECTS)
    for name in ("", "derivatives/fmriprep", "derivatives/firstlevel"):
        write_description(folder / name)
    lines = ["participant_id\tage\tsex\tsite"]
    n_images = 0
    for i in range(1, N_PEOPLE + 1):
        subject, age = f"sub-{i:02d}", int(rng.integers(20, 80))
        lines.append(f"{subject}\t{age}\t{'FM'[i % 2]}\t{'ABC'[i % 3]}")
        of_person = PERSON_SD * make_smooth_noise(rng, inside.shape)
        for session in (1, 2):
            if (i, session) == (7, 2):
                continue  # who did not come again
            place = Path(subject, f"ses-{session}", "func")
            start = f"{subject}_ses-{session}_task-faces_space-{SPACE}"
            mask = cut_mask(rng, inside)
            values = of_person + NOISE_SD * make_smooth_noise(rng, inside.shape)
            values += of_age * (age - 50) + of_session * (session == 2)
            maps = folder / "derivatives" / "firstlevel" / place
            masks = folder / "derivatives" / "fmriprep" / place
            for each in (maps, masks):
                each.mkdir(parents=True, exist_ok=True)
            name = f"{start}_contrast-faces_stat-effect_statmap.nii.gz"
            write_image(maps / name, values * mask, brain.affine, np.float32)
            name = f"{start}_desc-brain_mask.nii.gz"
            write_image(masks / name, mask, brain.affine, np.uint8)
            n_images += 1
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return n_images


def write_description(folder: Path) -> None:
    """Write dataset_description.json."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name or "study"
    kind = "derivative" if folder.parent.name == "derivatives" else "raw"
    said = {"Name": name, "BIDSVersion": "1.10.0", "DatasetType": kind}
    (folder / "dataset_description.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
