"""Fit a mixed model to images of people who came several times, and least squares beside it.

Usage: python examples/demo.py [FOLDER]

FOLDER is ./demo if not given.  The images are those of make_bids.py: where there is an effect,
and where there is none, is known.
"""

import argparse
import shlex
import subprocess
import sysconfig
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from make_bids import AGE, N_PEOPLE, YEARS, load_brain, make_sphere, write_data_set

ALPHA = 0.05  # false discovery rate
MIXED, LEAST_SQUARES = "mixed model", "least squares"
FORMULAS = {
    MIXED: "~ age + years + site + (1 | subject)",
    LEAST_SQUARES: "~ age + years + site",
}
FOLDERS = {MIXED: "results", LEAST_SQUARES: "least_squares"}
EFFECTS = {"age": AGE, "years": YEARS, "site": None}  # None: there is none anywhere


class Found(NamedTuple):
    """How many voxels a model declares significant for an effect."""

    n_true: int  # of those with the effect
    n_false: int  # of those without, where it is exactly 0
    n_with: int  # voxels with the effect, significant or not

    @property
    def n_significant(self) -> int:
        """All of them."""
        return self.n_true + self.n_false


def main() -> None:
    """Write the data set, fit both models, and say what they found."""
    parser = argparse.ArgumentParser(description="Fit made-up repeated measures in two ways.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    folder = parser.parse_args().folder
    print(
        "This takes about half a minute; the first time on a machine two minutes, since\n"
        "the fitting routines are compiled.\n"
    )
    print(f"Writing a made-up BIDS data set of {N_PEOPLE} people to {folder / 'bids'}", flush=True)
    n_images = write_data_set(folder / "bids")
    print(f"{n_images} images, 2 to 4 of each person", flush=True)
    for model in FORMULAS:
        fit(folder, model)
    found = count_found(folder)
    print(f"\n{describe(found)}\n", flush=True)
    figure = draw(folder)
    print(f"Picture:  {figure}")
    report = folder / FOLDERS[MIXED] / "report.html"
    if report.is_file():
        print(f"Report:   {report}")


def fit(folder: Path, model: str) -> None:
    """Show and run the command that fits a model; the first one says all that it has to say."""
    start = ["nipype-blm", "fit", str(folder / "bids"), str(folder / FOLDERS[model])]
    options = ["--contrast", "faces", "--stat", "effect"]
    options += ["--quiet", "--no-report"] if model == LEAST_SQUARES else []
    shown = (shlex.join(start), f'--formula "{FORMULAS[model]}"', shlex.join(options))
    print(f"\n{model.capitalize()}:\n$ " + " \\\n    ".join(shown), flush=True)
    command = Path(sysconfig.get_path("scripts"), start[0])
    began = time.monotonic()
    subprocess.run([command, *start[1:], "--formula", FORMULAS[model], *options], check=True)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def find_truth(contrast: str) -> np.ndarray:
    """Return where an effect is."""
    brain, effect = load_brain(), EFFECTS[contrast]
    inside = np.asarray(brain.dataobj) > 0
    return inside & False if effect is None else make_sphere(brain.affine, inside, effect) != 0


def count_found(folder: Path) -> dict[tuple[str, str], Found]:
    """Return what both models find of each effect."""
    from nipype_blm import Results
    from nipype_blm.report.figures import find_fdr_threshold

    found = {}
    for model in FORMULAS:
        for name, contrast in Results(folder / FOLDERS[model]).contrasts.items():
            z, truth = contrast.image("z").get_fdata(), find_truth(name)
            size = z if contrast.is_f else np.abs(z)
            threshold = find_fdr_threshold(z[contrast.mask], ALPHA, two_sided=not contrast.is_f)
            significant = contrast.mask & (size >= threshold)
            numbers = (significant & truth).sum(), (significant & ~truth).sum(), truth.sum()
            found[name, model] = Found(*map(int, numbers))
    return found


def describe(found: dict[tuple[str, str], Found]) -> str:
    """Return a table of what was found, and what it means."""
    lines = [
        f"Significant voxels at a false discovery rate of {100 * ALPHA:.0f} %: found where there",
        "is an effect, false where it is exactly 0.",
        "",
        f"{'':<34}{MIXED:>22}{LEAST_SQUARES:>22}",
        f"{'effect':<8}{'where (voxels)':<26}" + 2 * f"{'found':>14}{'false':>8}",
    ]
    for name, effect in EFFECTS.items():
        where = f"{effect.place} ({found[name, MIXED].n_with})" if effect else "nowhere"
        row = f"{name:<8}{where:<26}"
        for model in FORMULAS:
            row += f"{found[name, model].n_true:>14,}{found[name, model].n_false:>8,}"
        lines.append(row)
    return "\n".join([*lines, "", textwrap.fill(explain(found), 79)])


def explain(found: dict[tuple[str, str], Found]) -> str:
    """Return what the numbers mean; the README repeats it."""
    age, years, site = (found[name, LEAST_SQUARES] for name in EFFECTS)
    mixed_age, mixed_years, mixed_site = (found[name, MIXED] for name in EFFECTS)
    return (
        "Least squares takes the images of one person for those of several people.  So it claims "
        f"too much between people: {age.n_false:,} of its {age.n_significant:,} voxels of age are "
        f"false (mixed model: {mixed_age.n_false:,} of {mixed_age.n_significant:,}), and so are "
        f"all {site.n_significant:,} of site (mixed model: {mixed_site.n_significant:,}).  And it "
        f"misses changes within people: of the {years.n_with:,} voxels with an effect of years it "
        f"finds {years.n_true:,}, the mixed model {mixed_years.n_true:,}."
    )


def draw(folder: Path) -> Path:
    """Draw the z maps of both models below each other, the true effects outlined."""
    from nipype_blm.report.figures import plot_models

    figure = folder / "mixed_and_least_squares.png"
    names = [name for name, effect in EFFECTS.items() if effect]
    affine = load_brain().affine
    outlines = {n: nib.Nifti1Image(find_truth(n).astype(np.uint8), affine) for n in names}
    plot_models(
        {model: folder / FOLDERS[model] for model in FORMULAS},
        figure,
        names,
        ALPHA,
        outlines=outlines,
        title=f"z maps at a false discovery rate of {100 * ALPHA:.0f} %; true effects are outlined",
    )
    return figure


if __name__ == "__main__":
    main()
