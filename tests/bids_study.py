"""A small BIDS data set with first-level maps of two contrasts, and a table of the same images."""

import json
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

SHAPE = (5, 6, 4)
AFFINE = np.diag([3.0, 3, 3, 1])
SPACE = "MNI152NLin6Asym"


class Row(NamedTuple):
    """One image, and its covariates."""

    subject: str
    session: str
    age: float
    sex: str
    site: str
    image: Path  # of the contrast faces
    mask: Path | None


def write_data_set(folder: Path, n_subjects: int = 12, seed: int = 0) -> list[Row]:
    """Write participants, and two sessions of each; return the images in the order of subjects.

    Subject 03 has no second session, and subject 05 no brain masks.
    """
    rng = np.random.default_rng(seed)
    write_description(folder, "study")
    for name in ("fmriprep", "firstlevel"):
        write_description(folder / "derivatives" / name, name, DatasetType="derivative")
    rows, lines = [], ["participant_id\tage\tsex\tsite"]
    for i in range(1, n_subjects + 1):
        subject, age = f"{i:02d}", float(rng.integers(20, 60))
        sex, site = "FM"[i % 2], "ABC"[i % 3]
        lines.append(f"sub-{subject}\t{age:g}\t{sex}\t{site}")
        write_sessions(folder / f"sub-{subject}", {"1": 0.0, "2": 1 + i / 20})
        of_subject = rng.normal(size=SHAPE)
        for session in ("1", "2"):
            if (subject, session) == ("03", "2"):
                continue
            start = f"sub-{subject}_ses-{session}_task-faces_space-{SPACE}"
            place = Path(f"sub-{subject}", f"ses-{session}", "func")
            mask = None
            if subject != "05":
                inside = np.ones(SHAPE, "u1")
                inside[0, rng.integers(0, 3)] = 0
                mask = folder / "derivatives/fmriprep" / place / f"{start}_desc-brain_mask.nii.gz"
                save(mask, inside)
            maps = folder / "derivatives/firstlevel" / place
            for contrast in ("faces", "houses"):
                effect = of_subject + (session == "2") + rng.normal(size=SHAPE)
                effect += 0.1 * (age - 40) * (contrast == "faces")
                for stat, values in {"effect": effect, "variance": effect**2 + 1}.items():
                    name = f"{start}_contrast-{contrast}_stat-{stat}_statmap.nii.gz"
                    save(maps / name, values.astype("f4"))
            image = maps / f"{start}_contrast-faces_stat-effect_statmap.nii.gz"
            rows.append(Row(subject, session, age, sex, site, image, mask))
    (folder / "participants.tsv").write_text("\n".join(reverse_rows(lines)) + "\n")
    return rows


def write_sessions(folder: Path, years: dict[str, float]) -> None:
    """Write the years since the first session of a subject."""
    folder.mkdir()
    lines = [f"ses-{session}\t{since:g}" for session, since in years.items()]
    lines = reverse_rows(["session_id\tyears", *lines])
    (folder / f"{folder.name}_sessions.tsv").write_text("\n".join(lines) + "\n")


def reverse_rows(lines: list[str]) -> list[str]:
    """Return lines below the first in another order than the images."""
    return [lines[0], *reversed(lines[1:])]


def write_description(folder: Path, name: str, **fields: str) -> None:
    """Write dataset_description.json."""
    folder.mkdir(parents=True)
    content = {"Name": name, "BIDSVersion": "1.9.0"} | fields
    (folder / "dataset_description.json").write_text(json.dumps(content))


def save(path: Path, values: np.ndarray) -> None:
    """Write an image, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def write_table(path: Path, rows: list[Row]) -> Path:
    """Write a table of the images, in another order, with a column image."""
    lines = ["\t".join(Row._fields[:6])]
    lines += ["\t".join(map(str, row[:6])) for row in rows]
    path.write_text("\n".join(reverse_rows(lines)) + "\n")
    return path
