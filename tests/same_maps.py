"""Whether two states of the package write the same maps, bit for bit.

Usage, with the data of the tests in NIPYPE_BLM_TEST_DATA::

    python tests/same_maps.py write BEFORE.json --keep BEFORE    # in the one checkout
    python tests/same_maps.py compare BEFORE.json                # in the other

Real images, the demos, BLM's four test designs and fifty random mixed designs go through the
commands ``blm``, ``blmm`` and ``blmm_compare``, each in a process of its own.  Of every map, header
and voxels have a hash each; of every JSON file, what it says but for the version.  `compare` says
what differs, is missing or new, by how much if the maps were kept, and ends with 1 if any does.

Bits depend on the processor and on the versions of NumPy and Numba, so both runs belong on one
machine.  Only commands, fields of configurations and the studies of ``examples/`` beside this
script are used: to try another checkout, copy the script into it.
"""

import argparse
import functools
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"
N_RANDOM = 50
THREADS = 2
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
LIBRARIES = ("numpy", "scipy", "numba", "nibabel")

Record = dict[str, dict[str, str]]  # hashes of the parts of each file


class Case(NamedTuple):
    """A command whose maps are compared."""

    name: str
    module: str  # of nipype_blm.cli
    arguments: list[str]
    out_dir: Path


def main() -> int:
    """Write or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["write", "compare"])
    parser.add_argument("file", type=Path, help="JSON file of hashes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the maps there")
    parser.add_argument("--only", default="", help="cases whose names begin with this")
    options = parser.parse_args()

    start = time.monotonic()
    before = json.loads(options.file.read_text()) if options.action == "compare" else None
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep.absolute() if options.keep else Path(folder, "kept")
        found = run_cases(Path(folder, "studies"), keep, options.only)
        print(f"{len(found)} cases, {time.monotonic() - start:.0f} s")
        if before is None:
            kept = str(keep) if options.keep else None
            content = {"machine": describe_machine(), "kept": kept, "cases": found}
            options.file.write_text(json.dumps(content, indent=1) + "\n")
            return 0
        expected = {k: v for k, v in before["cases"].items() if k.startswith(options.only)}
        return compare(before, expected, found, keep)


def describe_machine() -> dict[str, str]:
    """Return what bits depend on."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "processor": find_processor(), **versions}


def find_processor() -> str:
    """Return the model and the instructions of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.partition(":") for line in lines)
    said = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{said.get('model name', '')}, flags {hash_bytes(said.get('flags', '').encode())[:12]}"


# Running


def run_cases(folder: Path, keep: Path, only: str) -> dict[str, Record]:
    """Run every case; return the hashes of its files, which are kept."""
    found = {}
    for case in make_cases(folder, only):
        run(case)
        found[case.name] = record(case.out_dir, keep / case.name)
    return found


def run(case: Case) -> None:
    """Run a command; raise an error with what it said if it fails."""
    command = [sys.executable, "-m", f"nipype_blm.cli.{case.module}", "--quiet", *case.arguments]
    start = time.monotonic()
    # Away from the checkout, so that what is installed is run.
    done = subprocess.run(command, cwd=case.out_dir.parent, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{case.name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"{case.name}: {time.monotonic() - start:.1f} s", flush=True)


def record(out_dir: Path, kept: Path) -> Record:
    """Return the hashes of maps and sidecars by name, and copy them."""
    found = {}
    for path in sorted(out_dir.rglob("*")):
        name = path.relative_to(out_dir)
        is_map = path.name.endswith((".nii", ".nii.gz"))
        if name.parts[0] in ("work", "model"):  # a saved model has the times of its images
            continue
        if not (is_map or path.suffix == ".json") or path.name[0] == ".":
            continue
        copy = kept / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if is_map:
            shutil.copy(path, copy)
        else:  # some name images, which lie in a temporary folder
            copy.write_text(path.read_text().replace(str(out_dir.parent), "STUDY"))
        found[str(name)] = hash_map(copy) if is_map else hash_sidecar(copy)
    return found


def hash_map(path: Path) -> dict[str, str]:
    """Return the hashes of header and voxels, decompressed."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    offset = nib.load(path).dataobj.offset
    return {"header": hash_bytes(content[:offset]), "voxels": hash_bytes(content[offset:])}


def hash_sidecar(path: Path) -> dict[str, str]:
    """Return the hash of what a sidecar says."""
    return {"text": hash_bytes(json.dumps(read_sidecar(path)).encode())}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what a sidecar says but for the version."""
    said = json.loads(path.read_text())
    said.get("GeneratedBy", {}).pop("Version", None)
    return said


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Comparing


def compare(before: dict[str, Any], expected: dict[str, Record], found: Any, keep: Path) -> int:
    """Print what differs; return 1 if anything does."""
    if before["machine"] != describe_machine():
        print(f"notice: another machine: {before['machine']}, not {describe_machine()}")
    kept = Path(before["kept"]) if before["kept"] else None
    n_different = 0
    for case in sorted(expected.keys() | found.keys()):
        old, new = expected.get(case, {}), found.get(case, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) == new.get(name):
                continue
            n_different += 1
            files = kept and (kept / case / name, keep / case / name)
            print(f"{case}/{name}: {describe(old.get(name), new.get(name), files)}")
    n_files = sum(map(len, expected.values()))
    print(
        f"{n_different} of {n_files} files differ" if n_different else f"{n_files} files, all same"
    )
    return int(n_different > 0)


def describe(
    old: dict[str, str] | None, new: dict[str, str] | None, files: tuple[Path, Path] | None
) -> str:
    """Return how two files differ; how much, if both are there."""
    if old is None or new is None:
        return "new" if old is None else "missing"
    text = ", ".join(part for part in old if old[part] != new[part]) + " differ"
    if files is None or not files[0].is_file():
        return text
    if "text" in old:
        a, b = map(read_sidecar, files)
        fields = [field for field in {**a, **b} if a.get(field) != b.get(field)]
        return f"{text}: {', '.join(fields) or 'the order of fields'}"
    return f"{text}: {describe_difference(*files)}"


def describe_difference(first: Path, second: Path) -> str:
    """Return the largest relative difference of two maps."""
    a, b = (np.asarray(nib.load(path).dataobj) for path in (first, second))
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return f"{a.dtype} {a.shape}, now {b.dtype} {b.shape}"
    a, b = a.astype(float), b.astype(float)
    n = np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    return f"{n} of {a.size} values, by up to {np.nanmax(relative, initial=0):.2g} of themselves"


# Studies


def make_cases(folder: Path, only: str) -> Iterator[Case]:
    """Write studies, each when its turn comes and for no longer; yield their commands."""
    makers = {
        "wager2008": write_wager,
        "blm_demo": write_blm_demo,
        "blmm_demo": write_blmm_demo,
        **{f"design_{i}": functools.partial(write_blm_design, number=i) for i in range(1, 5)},
        "compared": write_compared,
        **{f"random_{i:02}": functools.partial(write_random, seed=i) for i in range(N_RANDOM)},
    }
    for name, write in makers.items():
        if name.startswith(only) or only.startswith(name):
            (folder / name).mkdir(parents=True)
            yield from (case for case in write(folder / name) if case.name.startswith(only))
            shutil.rmtree(folder / name)


def fit(folder: Path, name: str, **fields: Any) -> Case:
    """Write a configuration into the folder of a study; return the command that runs it."""
    model = "blmm" if "Z" in fields else "blm"
    config = {"Y_files": "images.txt", "X": "X.csv", "outdir": name, "numNodes": THREADS} | fields
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    full_name = folder.name if name == "results" else f"{folder.name}_{name}"
    return Case(full_name, model, [str(path)], folder / name)


def number(**named: Any) -> list[dict[str, Any]]:
    """Return contrasts as the configuration has them; underscores in names are spaces."""
    return [
        {f"c{i}": {"name": name.replace("_", " "), "vector": np.asarray(vector).tolist()}}
        for i, (name, vector) in enumerate(named.items(), 1)
    ]


def write_wager(folder: Path) -> Iterator[Case]:
    """Thirty contrast images whose masks differ, and the same as float64 with masks."""
    data = Path(os.environ["NIPYPE_BLM_TEST_DATA"], "wager2008").absolute()
    table = np.genfromtxt(
        data / "participants.tsv", delimiter="\t", dtype=None, names=True, encoding="utf8"
    )
    rvlpfc = table["X_RVLPFC"]
    X = np.column_stack([np.ones(30), rvlpfc, table["Y_Reappraisal_Success"], rvlpfc > 2])
    write_table(folder / "X.csv", X)
    write_lines(folder / "images.txt", [data / name for name in table["image"]])
    contrasts = number(
        all_of_them=np.eye(4)[1:],
        mean=[1, 0, 0, 0],
        rvlpfc=[0, 1, 0, 0],
        two_rows=[[0, 1, -1, 0], [1, 0.5, 0, 0.25]],
        difference=[0, 1, -0.5, 0],
    )
    yield fit(folder, "results", contrasts=contrasts)

    rng = np.random.default_rng(1)
    first = nib.load(data / table["image"][0])
    masks = {"analysis": 0.9, "post": 0.95}
    for name, share in masks.items():
        inside = rng.random(first.shape) < share
        save(folder / f"{name}.nii.gz", 255 * inside, np.uint8, first.affine)
    for i, name in enumerate(table["image"]):
        values = nib.load(data / name).get_fdata()
        save(folder / f"Y{i}.nii", values, np.float64, first.affine)
    write_lines(folder / "copies.txt", [f"Y{i}.nii" for i in range(30)])
    yield fit(
        folder,
        "masked",
        Y_files="copies.txt",
        contrasts=contrasts,
        analysis_mask="analysis.nii.gz",
        Missingness={"MinPercent": "25%", "Masking": "post.nii.gz"},
        two_sided=True,
        compress=True,
        images_per_batch=8,
        voxels_per_block=30_000,
    )

    site = np.random.default_rng(20).permutation(np.arange(30) % 10)
    Z = write_factor(folder, "site", site, np.ones((30, 1)))
    yield fit(folder, "mixed", Z=[{"f1": Z}], contrasts=contrasts, resms=True, images_per_batch=11)


def write_blm_demo(folder: Path) -> Iterator[Case]:
    """The demo of a linear model."""
    load_example("blm_demo").write_study(folder)
    yield Case(folder.name, "blm", [str(folder / "blm.yml")], folder / "results")


def write_blmm_demo(folder: Path) -> Iterator[Case]:
    """The demo of a mixed model."""
    demo = load_example("blmm_demo")
    demo.write_study(folder, demo.make_people())
    yield Case(folder.name, "blmm", [str(folder / "blmm.yml")], folder / "results")


def write_blm_design(folder: Path, number: int) -> Iterator[Case]:
    """One of BLM's own test designs, on a small grid."""
    designs = load_example("blm_designs")
    n_obs, n_params = designs.DESIGNS[number]
    designs.simulate_data(folder, n_obs, n_params, dim=14, seed=1)
    config = designs.write_config(folder, n_params, THREADS, "local")
    yield Case(folder.name, "blm", [str(config)], folder / "BLM")


def load_example(name: str) -> Any:
    """Import one of the examples, which import each other."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def write_compared(folder: Path) -> Iterator[Case]:
    """Three models of the same images, each with a random effect more, and their comparison."""
    rng = np.random.default_rng(7)
    level = np.repeat(np.arange(12), 4)
    time = np.tile([-1.5, -0.5, 0.5, 1.5], 12)
    X = np.column_stack([np.ones(48), time, rng.normal(size=48)])
    write_table(folder / "X.csv", X)
    slopes = rng.normal(size=(12, 1, 1, 1)) * rng.integers(0, 2, SMALL)
    Y = 20 + rng.normal(size=(12, *SMALL))[level] + (slopes[level].T * time).T
    Y += rng.normal(size=Y.shape)
    Y[rng.random(Y.shape) < 0.03] = 0
    write_images(folder, Y, np.float32)
    contrasts = number(time=[0, 1, 0], both=np.eye(3)[1:])
    Z = {
        "none": None,
        "intercept": write_factor(folder, "person", level, X[:, :1]),
        "slope": write_factor(folder, "person", level, X[:, :2], design="slope.csv"),
    }
    for name, factor in Z.items():
        random = {"Z": [{"f1": factor}]} if factor else {}
        yield fit(folder, name, contrasts=contrasts, **random)
    for smaller, larger in (("none", "intercept"), ("intercept", "slope")):
        out_dir = folder / f"{smaller}_{larger}"
        arguments = [*(str(folder / name) for name in (smaller, larger)), str(out_dir)]
        yield Case(f"{folder.name}_{out_dir.name}", "compare", arguments, out_dir)


# Random mixed designs

SMALL, LARGE = (8, 7, 6), (14, 13, 12)  # the large one has engines of its own
STRUCTURES = (  # of each factor: number of effects, whether correlated
    [(1, True)],
    [(2, True)],
    [(1, True), (1, True)],
    [(2, False)],
    [(1, True), (1, True), (1, True)],
    [(2, True), (1, True)],
    [(3, True)],
    [(2, False), (1, True)],
    [(1, True), (2, True), (1, True)],
    [(2, True), (2, False)],
)


def write_random(folder: Path, seed: int) -> Iterator[Case]:
    """A mixed design of up to sixty images: structure by turns, all else by chance."""
    rng = np.random.default_rng([2026, seed])
    turn, kind = divmod(seed, len(STRUCTURES))
    structure = STRUCTURES[kind]
    is_nested = len(structure) > 1 and turn % 2 == 1
    # No image is missing, so that many voxels have the same ones.
    is_complete = (turn + kind) % 4 == 2
    n = int(rng.integers(40, 61))
    time = rng.uniform(-1, 1, n).round(3)
    X = np.column_stack([np.ones(n), time, rng.normal(size=n).round(3)])
    levels = draw_levels(rng, n, len(structure), is_nested)
    effects = [np.column_stack([time**k for k in range(q)]) for q, _ in structure]
    Y = draw_images(rng, X, levels, effects, LARGE if is_complete else SMALL)
    if not is_complete:
        Y[draw_missing(rng, Y.shape, levels[0])] = 0
    fields = draw_fields(rng, is_complete)
    contrasts = {"time": [0, 1, 0], "both": np.eye(3)[1:], "sum": [1, -2, 0.5], "last": [0, 0, 1]}
    if rng.random() < 0.3:  # a column that is the sum of others
        group = np.arange(n) % 2
        X = np.column_stack([X, group, 1 - group])
        fields["deficient"] = "estimable"
        contrasts = {
            "time": [0, 1, 0, 0, 0],
            "both": [[0, 1, 0, 0, 0], [0, 0, 0, 1, -1]],
            "sum": [1, -2, 0.5, 0.5, 0.5],
        }
    write_table(folder / "X.csv", X)
    dtype = rng.choice([np.float32, np.int16, np.float64], p=[0.5, 0.3, 0.2])
    fields |= write_images(folder, Y, dtype, in_one_file=rng.random() < 0.15)
    if rng.random() < 0.3:
        fields |= {"analysis_mask": "mask.nii"}
        save(folder / "mask.nii", 255 * (rng.random(Y.shape[1:]) < 0.95), np.uint8, AFFINE)
    factors = []
    for k, (level, Z, (_, correlated)) in enumerate(
        zip(levels, effects, structure, strict=True), 1
    ):
        factor = write_factor(folder, f"f{k}", level, Z) | {"correlated": correlated}
        factors.append({f"f{k}": factor | ({"nested_in": "f1"} if is_nested and k == 2 else {})})
    if is_nested or len(structure) > 1 < len(effects[0].T):  # too many random effects for it
        fields["safeMode"] = False
    yield fit(folder, "results", Z=factors, contrasts=number(**contrasts), **fields)


def draw_levels(rng: np.random.Generator, n: int, n_factors: int, nested: bool) -> list[np.ndarray]:
    """Return the level of each image in each factor."""
    first = np.sort(np.r_[np.arange(8), rng.integers(0, 8, n - 8)])
    second = np.arange(n) % 2 if nested else rng.permutation(np.arange(n) % 5)
    return [first, second, rng.permutation(np.arange(n) % 4)][:n_factors]


def draw_images(
    rng: np.random.Generator,
    X: np.ndarray,
    levels: list[np.ndarray],
    effects: list[np.ndarray],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return X beta + Z b + e around 500; variances of Z b may be 0, and one voxel is constant."""
    Y = 500 + 10 * rng.normal(size=(len(X), *shape))
    Y += np.tensordot(X, 5 * rng.normal(size=(X.shape[1], *shape)), 1)
    for level, Z in zip(levels, effects, strict=True):
        sd = 15 * np.abs(rng.normal(size=shape)) * (rng.random(shape) < 0.8)
        for z in Z.T:
            b = sd * rng.normal(size=(level.max() + 1, *shape))
            Y += (z * b[level].T).T
    Y[:, 0, 4, 0] = 500
    return Y


def draw_missing(rng: np.random.Generator, shape: tuple[int, ...], level: np.ndarray) -> np.ndarray:
    """Return where images are missing: here and there, and in many more at some voxels.

    At a few voxels all are missing, all but five, every second, or all but one of each level.
    """
    share = rng.choice([0, 0.05, 0.6], p=[0.7, 0.2, 0.1], size=shape[1:])
    missing = rng.random(shape) < share
    missing[:, 0, 0, :2] = True
    missing[5:, 0, 1, :2] = True
    missing[::2, 0, 2, :] = True
    missing[:, 0, 3, :2] = True
    missing[np.unique(level, return_index=True)[1], 0, 3, :2] = False
    return missing


def draw_fields(rng: np.random.Generator, is_complete: bool) -> dict[str, Any]:
    """Return options of a run."""
    fields: dict[str, Any] = {
        "reml": bool(rng.random() < 0.6),
        "resms": bool(rng.random() < 0.5),
        "safeMode": bool(rng.random() < 0.3),
        "OutputCovB": bool(rng.random() < 0.7),
        "two_sided": bool(rng.random() < 0.3),
        "compress": bool(rng.random() < 0.3),
        "images_per_batch": int(rng.choice([13, 17, 32, 60])),
        "voxels_per_block": int(rng.choice([2100, 5000] if is_complete else [97, 150, 5000])),
    }
    rare = {
        "method": str(rng.choice(["pSFS", "FS"])),
        "n_starts": 2,
        "maxnit": 4,
        "Missingness": {"MinPercent": "40%"},
        "data_mask_thresh": 450,
    }
    return fields | {name: value for name, value in rare.items() if rng.random() < 0.12}


# Files


def write_images(
    folder: Path, Y: np.ndarray, dtype: type, in_one_file: bool = False
) -> dict[str, str]:
    """Write images, and their list or a 4D image; return the field that names these."""
    if in_one_file:
        save(folder / "Y.nii.gz", np.moveaxis(Y, 0, -1), dtype, AFFINE)
        return {"Y_files": "Y.nii.gz"}
    names = [f"Y{i:02}.nii{'.gz' if i % 3 == 0 else ''}" for i in range(len(Y))]
    for name, values in zip(names, Y, strict=True):
        save(folder / name, values, dtype, AFFINE)
    write_lines(folder / "images.txt", names)
    return {"Y_files": "images.txt"}


def save(path: Path, values: np.ndarray, dtype: type, affine: np.ndarray) -> None:
    """Write an image; 16-bit integers have a slope."""
    slope = 0.1 if dtype is np.int16 else 1.0
    image = nib.Nifti1Image(np.rint(values / slope) if slope < 1 else values, affine, dtype=dtype)
    if slope < 1:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)


def write_factor(
    folder: Path, name: str, level: np.ndarray, Z: np.ndarray, design: str | None = None
) -> dict[str, Any]:
    """Write labels and design of a random factor; return its fields."""
    write_lines(folder / f"{name}.txt", [f"level {i}" for i in level])
    write_table(folder / (design or f"{name}.csv"), Z)
    return {"name": name, "factor": f"{name}.txt", "design": design or f"{name}.csv"}


def write_table(path: Path, rows: np.ndarray) -> None:
    np.savetxt(path, rows, "%.17g", ",")


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
