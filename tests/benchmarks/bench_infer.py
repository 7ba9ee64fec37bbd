"""What do corrected p, and diagnostics, take from the command line?

100 images of 2 mm (235,375 voxels): complete, with a ring of voxels that miss some, and of 25
subjects with four visits.  Then 100 and 5,000 small images with little memory.  The start of the
command, reading the images and writing maps are included.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from harness import MIB, Usage, aim, format_table, measure, parse_arguments, summarise, write_result
from images import link_brains, make_brains, make_covariates, t_contrasts, write_config
from mixed_images import write_intercepts

BRAIN, N_OBS, N_VISITS, N_PARAMS = 235_375, 100, 4, 4
SMALL, SMALL_BRAIN, SMALL_MAXMEM = (40, 48, 40), 30_000, 0.5
GIB, INTERVAL_S = 2**30, 0.2
Row = dict[str, Any]
VOXEL, ALL = ("voxel",), ("voxel", "cluster", "tfce")


class Study(NamedTuple):
    """A folder of results, and how much memory may be used with it."""

    out: Path
    max_mem_gb: float
    model: str = "blm"

    @property
    def ring(self) -> float:
        """The share of voxels that miss some image."""
        n = nib.load(next(self.out.glob("*_vox_n.nii"))).get_fdata()
        return float((n[n > 0] < n.max()).mean())


class Case(NamedTuple):
    """A command, and what is aimed at."""

    study: str
    n: int  # resamplings; 0: diagnostics
    summaries: tuple[str, ...] = ()
    most_cpu_s: float | None = None
    max_mem_gb: float | None = None  # less than the fit had

    @property
    def name(self) -> str:
        """What it is called."""
        what = f"{self.n:,} flips, {', '.join(self.summaries)}" if self.n else "diagnose"
        less = "" if self.max_mem_gb is None else f", {self.max_mem_gb:g} GiB"
        return f"{self.study}: {what}{less}"


CASES = (
    Case("100 small", 128, VOXEL),
    Case("100 small", 128, ALL),
    Case("100 small", 0),
    Case("5,000 small", 128, VOXEL),
    Case("5,000 small", 128, ALL),
    Case("5,000 small", 0),
    Case("full", 5000, VOXEL, 15),
    Case("ring", 5000, VOXEL, 30),
    Case("full", 1000, ALL, 150),
    Case("full", 256, ALL, max_mem_gb=0.5),
    Case("mixed", 1000, VOXEL),
    Case("ring", 0),
    Case("mixed", 0),
)


def fit(data: Path, name: str, blm: Path) -> tuple[Study, Usage | None]:
    """Make the images of a study, and fit them, unless that has been done."""
    folder, out = data / f"infer {name}", data / f"infer {name}" / "out"
    images = data / f"infer images {name.split()[-1]}"
    study = Study(out, 4, "blmm" if name == "mixed" else "blm")
    n_obs, fields = N_OBS, {}
    if "small" in name:
        make_brains(images, 500, shape=SMALL, n_voxels=SMALL_BRAIN)
        n_obs = int(name.split()[0].replace(",", ""))
        paths, study = link_brains(images, n_obs), study._replace(max_mem_gb=SMALL_MAXMEM)
    else:
        visits = N_VISITS if name == "mixed" else 1
        make_brains(images, N_OBS, n_voxels=BRAIN, ragged=name != "full", n_visits=visits)
        paths = [images / "data" / f"brain{i}.nii.gz" for i in range(N_OBS)]
    folder.mkdir(exist_ok=True)
    if name == "mixed":
        fields["Z"] = write_intercepts(folder, np.arange(N_OBS) // N_VISITS)
    config = write_config(
        folder / "config.yml",
        paths,
        make_covariates(folder, n_obs, N_PARAMS),
        out,
        contrasts=t_contrasts([0] * (N_PARAMS - 1) + [1]),
        analysis_mask=str(images / "data" / "mask.nii"),
        MAXMEM=str(int(study.max_mem_gb * GIB)),
        **fields,
    )
    if (out / "inputs.yml").exists():
        return study, None
    return study, measure([blm.with_name(study.model), config], data / "infer.log", INTERVAL_S)


def run(tool: Path, case: Case, study: Study, log: Path) -> tuple[Usage, dict[str, float]]:
    """Run a command from the beginning; return what it took, and disk in MB: said, and used."""
    for folder in ("inference", "work", "diagnostics"):
        shutil.rmtree(study.out / folder, ignore_errors=True)
    limit = ["--max-mem-gb", f"{study.max_mem_gb:g}"]
    if not case.n:
        return measure([tool, "diagnose", study.out, *limit], log, INTERVAL_S), {}
    command = [tool, "infer", study.out, *limit]
    command += ["--n", str(case.n), "--summaries", *case.summaries]
    measure([*command, "--check"], log)
    [said] = re.findall(r"take up to ([\d,]+) MB", log.read_text())
    usage = measure([*command, "--keep"], log, INTERVAL_S)
    files = [path for path in (study.out / "work").rglob("*") if path.is_file()]
    used = sum(path.stat().st_size for path in files) / 1e6
    shutil.rmtree(study.out / "work")
    return usage, {"disk_said_mb": float(said.replace(",", "")), "disk_used_mb": round(used)}


def describe(case: Case, study: Study, runs: list[tuple[Usage, dict[str, float]]]) -> Row:
    """Return what a command took, and whether that is what was aimed at."""
    took = {"ring": round(study.ring, 2)} | summarise([usage for usage, _ in runs]) | runs[-1][1]
    aims = []
    if case.most_cpu_s is not None:
        aims.append(aim(f"{case.name}: CPU s", took["cpu_s"], "<=", case.most_cpu_s))
    share = took["pss_mib"] * MIB / (study.max_mem_gb * GIB)
    aims.append(aim(f"{case.name}: memory / limit", share, "<=", 1))
    if case.n:
        used = took["disk_used_mb"] / took["disk_said_mb"]
        aims.append(aim(f"{case.name}: disk / what --check says", used, "<=", 1))
    return took | {"aims": aims}


def main() -> None:
    """Measure and write the result."""
    arguments = parse_arguments(
        __doc__ or "",
        "nipype-blm",
        only={
            "nargs": "+",
            "metavar": "NAME",
            "help": "run the rows that begin so ('full', 'ring: diagnose'); others stay",
        },
    )
    tool, data = arguments.nipype_blm, arguments.data
    rows: dict[str, Row] = {}
    before = arguments.results / "infer.json"
    if arguments.only and before.exists():
        rows = json.loads(before.read_text())["rows"]
    studies: dict[str, Study] = {}
    for case in CASES:
        name = case.study
        if arguments.only and not any(case.name.startswith(each) for each in arguments.only):
            continue
        if name not in studies:
            studies[name], usage = fit(data, name, tool)
            if usage is not None:
                rows[f"{name}: fit"] = summarise([usage])
        study = studies[name]
        if case.max_mem_gb is not None:
            study = study._replace(max_mem_gb=case.max_mem_gb)
        runs = [run(tool, case, study, data / "infer.log") for _ in range(arguments.repeats)]
        rows[case.name] = describe(case, study, runs)
        aims = [each for row in rows.values() for each in row.get("aims", ())]
        write_result(arguments.results, "infer", aims, rows=rows)
    shown = ("cpu_s", "wall_s", "pss_mib", "rss_mib")
    print(format_table([{"case": name} | {k: row[k] for k in shown} for name, row in rows.items()]))


if __name__ == "__main__":
    main()
