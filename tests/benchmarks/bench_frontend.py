"""How long does it take, and how much memory, from a BIDS data set or a table to observations?

20,000 files as fMRIPrep and a first level leave them: 1,000 subjects, two sessions, two spaces.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import HERE, aim, measure, parse_arguments, write_result

N_SUBJECTS = 1000
SPACES = ("MNI152NLin2009cAsym", "T1w")
FILTERS = {"contrast": "faces", "stat": "effect", "space": SPACES[0]}


def list_files(subject: str) -> Iterator[str]:
    """Yield the names of 20 files of a subject, from the folder of derivatives."""
    sub = f"sub-{subject}"
    for session in "12":
        start = f"{sub}/ses-{session}/func/{sub}_ses-{session}_task-faces"
        yield f"fmriprep/{start}_desc-confounds_timeseries.tsv"
        yield f"fmriprep/{start}_desc-preproc_bold.json"
        for space in SPACES:
            yield f"fmriprep/{start}_space-{space}_desc-preproc_bold.nii.gz"
            yield f"fmriprep/{start}_space-{space}_desc-brain_mask.nii.gz"
            for stat in ("effect", "t"):
                end = f"space-{space}_contrast-faces_stat-{stat}_statmap.nii.gz"
                yield f"first/{start}_{end}"


def make_data_set(root: Path) -> None:
    """Write the data set, unless it is there, and tables beside it."""
    if (root / "table.tsv").exists():
        return
    subjects = [f"{i:04d}" for i in range(N_SUBJECTS)]
    for subject in subjects:
        for name in list_files(subject):
            path = root / "derivatives" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    rows = [f"sub-{subject}\t{20 + i % 60}\t{'FM'[i % 2]}" for i, subject in enumerate(subjects)]
    table = "participant_id\tage\tsex\n" + "".join(f"{row}\n" for row in rows)
    (root / "participants.tsv").write_text(table)
    rows = [f"{row}\t{session}" for row in rows for session in "12"]
    table = "participant_id\tage\tsex\tsession\n" + "".join(f"{row}\n" for row in rows)
    (root / "table.tsv").write_text(table)


def observe(root: str, what: str) -> None:
    """Make typed observations, and print the CPU seconds of each step."""
    import pandas  # noqa: F401  whatever is done, this is needed

    from nipype_blm.frontends.bids import find_study
    from nipype_blm.frontends.columns import type_columns
    from nipype_blm.frontends.matching import match_images
    from nipype_blm.io.bids import index_tree
    from nipype_blm.io.frames import read_frame

    folder = Path(root)
    times, before = {}, peak_mib()
    start = time.process_time()
    if what == "bids":
        n_files = len(index_tree(folder / "derivatives"))
        times["index"] = time.process_time() - start
        start = time.process_time()
        study = find_study(folder, None, FILTERS, own_masks=True)
    else:
        n_files = 0
        frame = read_frame(folder / "table.tsv", "table")
        name = "sub-{subject}_ses-{session}_*_space-MNI*_stat-effect_statmap.nii.gz"
        pattern = f"derivatives/first/sub-{{subject}}/ses-{{session}}/func/{name}"
        study = match_images(frame, pattern, folder)
    times["observations"] = time.process_time() - start
    start = time.process_time()
    typed, _ = type_columns(study.frame, ["age", "sex", "session"])
    times["types"] = time.process_time() - start
    found = {"files": n_files, "images": len(study.images), "rows": len(typed)}
    print(json.dumps(found | times | {"grown_mib": peak_mib() - before}))


def peak_mib() -> float:
    """Return the peak of the memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_one(root: Path, what: str, log: Path) -> dict[str, Any]:
    """Return what a process of its own takes for one way of making observations."""
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import bench_frontend as b; "
    command = [sys.executable, "-c", f"{program}b.observe({str(root)!r}, {what!r})"]
    usage = measure(command, log)
    found = json.loads(log.read_text().splitlines()[-1])
    row = {key: round(value, 3) for key, value in found.items()}
    print(what, row, f"{usage.cpu_s:.2f} CPU s")
    return row | {"cpu_s": round(usage.cpu_s, 2), "rss_mib": round(usage.rss_mib)}


def main() -> None:
    arguments = parse_arguments(__doc__)
    root = arguments.data / "frontend"
    make_data_set(root)
    log = arguments.data / "last.log"
    runs = {
        what: [measure_one(root, what, log) for _ in range(arguments.repeats)]
        for what in ("bids", "table")
    }
    best = {
        what: {key: min(r[key] for r in each) for key in each[0]} for what, each in runs.items()
    }
    n = best["bids"]["files"]
    aims = [
        aim(f"index of {n:,} files: CPU s", best["bids"]["index"], "<=", 2),
        aim(
            "2,000 images of it, with masks and tables: CPU s",
            best["bids"]["observations"],
            "<=",
            4,
        ),
        aim("2,000 images by a pattern: CPU s", best["table"]["observations"], "<=", 2),
        aim("memory of all that: MiB", best["bids"]["grown_mib"], "<=", 100),
    ]
    write_result(arguments.results, "frontend", aims, runs=runs)


if __name__ == "__main__":
    main()
