"""BLM-py's own example configurations, and designs written by other programs, are read."""

import os

import dask
import nibabel as nib
import numpy as np
import pytest

from nipype_blm.tasks.batch import BATCH_SYSTEMS

# As in BLM-py's README.
EXAMPLE_1 = """\
Y_files: /path/to/data/Y.txt
X: /path/to/data/X.csv
outdir: /path/to/output/directory/
contrasts:
  - c1:
      name: Tcontrast1
      vector: [1, 0, 1, 0, 1]
clusterType: SLURM
numNodes: 100
"""
EXAMPLE_2 = """\
MAXMEM: 2**32
Y_files: /path/to/data/Y.txt
data_mask_files: /path/to/data/M_.txt
data_mask_thresh: 0.1
X: /path/to/data/X.csv
outdir: /path/to/output/directory/
contrasts:
  - c1:
      name: Tcontrast1
      vector: [1, 0, 0]
  - c2:
      name: Tcontrast2
      vector: [0, 1, 0]
  - c3:
      name: Tcontrast3
      vector: [0, 0, 1]
  - c4:
      name: Fcontrast1
      vector: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
Missingness:
  MinPercent: 0.10
  MinN: 15
analysis_mask: /path/to/data/MNI152_T1_2mm_brain_mask.nii.gz
clusterType: SLURM
numNodes: 100
"""
# As BLM-py's test writes it.
TEST_CONFIGURATION = """\
Missingness: {MinPercent: 0.5}
X: /path/to/data/X.csv
Y_files: /path/to/data/Y.txt
analysis_mask: /path/to/data/MNI152_T1_2mm_brain_mask.nii.gz
clusterType: local
contrasts:
- c1: {name: null, statType: T, vector: "[1 0 0]"}
numNodes: 2
outdir: /path/to/output/directory/
sim: 1
voxelBatching: 1
maxnvb: 60
"""


@pytest.fixture
def example(study):
    """Return a function that puts an example into the study's folder."""
    n = 16
    rng = np.random.default_rng(0)
    study.values = rng.integers(1, 100, (n, 4, 3, 2))
    for i in range(n):
        study.save_image(f"s{i:02}.nii", study.values[i])
    study.write("Y.txt", "".join(f"{study.folder}/s{i:02}.nii\n" for i in range(n)))
    study.save_image("MNI152_T1_2mm_brain_mask.nii.gz", np.ones((4, 3, 2)))
    study.write("M_.txt", "MNI152_T1_2mm_brain_mask.nii.gz\n" * n)

    def write(text, n_columns, **replacements):
        study.X = np.c_[np.ones(n), rng.normal(size=(n, n_columns - 1))]
        study.write_design(study.X)
        text = text.replace("/path/to/data/", f"{study.folder}/")
        text = text.replace("/path/to/output/directory/", f"{study.outdir}/")
        for old, new in replacements.items():
            text = text.replace(old, new)
        return study.write("blm_config.yml", text)

    return write


def jobqueue(**fields):
    """Return a context in which the user's jobqueue.yaml says this of Slurm."""
    # Its defaults are there once it is imported; in the context they would go with it.
    assert BATCH_SYSTEMS["slurm"].cluster_class
    return dask.config.set({f"jobqueue.slurm.{name}": value for name, value in fields.items()})


@pytest.mark.parametrize(("text", "n_columns"), [(EXAMPLE_1, 5), (EXAMPLE_2, 3)])
def test_an_example_is_good_where_there_is_slurm(study, example, text, n_columns, monkeypatch):
    study.write("sbatch", "#!/bin/sh\n").chmod(0o755)  # only looked for
    monkeypatch.setenv("PATH", str(study.folder), prepend=os.pathsep)
    with jobqueue(cores=1, memory="8GB"):
        result = study.command(example(text, n_columns), "--check")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(("text", "n_columns"), [(EXAMPLE_1, 5), (EXAMPLE_2, 3)])
def test_an_example_says_what_slurm_lacks(study, example, text, n_columns, monkeypatch):
    monkeypatch.setenv("PATH", str(study.folder))
    with jobqueue(cores=None, memory="8GB"):
        result = study.command(example(text, n_columns), "--check")
    assert result.code == 2
    assert [error.split()[0] for error in result.errors] == ["sbatch,", "The"]
    assert "jobqueue.slurm of jobqueue.yaml has no cores" in result.errors[1]


@pytest.mark.parametrize("option", ["--check", "--quiet"])
@pytest.mark.parametrize(("text", "n_columns"), [(EXAMPLE_1, 5), (EXAMPLE_2, 3)])
def test_an_example_runs_here(study, example, text, n_columns, option):
    result = study.command(example(text, n_columns, SLURM="local"), option)
    assert result.code == 0
    assert result.err == ""


def test_the_second_example_gives_the_maps_of_its_contrasts(study, example):
    assert study.command(example(EXAMPLE_2, 3, SLURM="local")).code == 0
    np.testing.assert_array_equal(study.map("con"), study.map("beta"))
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["Tcontrast1", "Tcontrast2", "Tcontrast3"]
    assert study.sidecar("blm_vox_conF")["Volumes"] == ["Fcontrast1"]
    n, beta, _ = study.fit()
    np.testing.assert_array_equal(study.map("n"), n)
    # The maps are single precision.
    np.testing.assert_allclose(study.map("beta"), beta, rtol=2e-6, atol=1e-4)


def test_the_configuration_of_blm_pys_test_runs_with_its_notice(study, example):
    result = study.command(example(TEST_CONFIGURATION, 3))
    assert result.code == 0
    assert "notice: voxelBatching" in result.err
    assert result.out == ""
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["c1"]


@pytest.mark.parametrize("maxmem", ["2**32", 2**32, "4294967296", "4 * 2**30", 4.0e9])
def test_maxmem_is_a_number_or_arithmetic(study, maxmem):
    assert study.run("--check", MAXMEM=maxmem).code == 0


# --------------------------------------------------------------------------------- X


def as_text(X, separator=",", header="", prefix=None, end="\n", quote=""):
    lines = [header] if header else []
    for i, row in enumerate(X):
        cells = [f"{quote}{value!r}{quote}" for value in row.tolist()]
        lines.append(separator.join([*([prefix(i)] if prefix else []), *cells]))
    return end.join(lines) + end


DESIGNS = {
    "CSV": lambda X: as_text(X),
    "CSV with header": lambda X: as_text(X, header="mean,sex,age"),
    "CSV with spaces": lambda X: as_text(X, ", "),
    "TSV": lambda X: as_text(X, "\t"),
    "TSV with header": lambda X: as_text(X, "\t", header="mean\tsex\tage"),
    "semicolons": lambda X: as_text(X, ";"),
    "whitespace": lambda X: as_text(X, "   "),
    "whitespace with header": lambda X: as_text(X, " ", header="mean sex age"),
    "quoted": lambda X: as_text(X, quote='"', header='"mean","sex","age"'),
    "names with commas": lambda X: as_text(X, header='"mean, all",sex,age'),
    "byte order mark": lambda X: "\ufeff" + as_text(X),
    "byte order mark and header": lambda X: "\ufeff" + as_text(X, header="mean,sex,age"),
    "lines of Windows": lambda X: as_text(X, end="\r\n"),
    "lines of Windows with header": lambda X: as_text(X, end="\r\n", header="mean,sex,age"),
    "blank lines": lambda X: "\n" + as_text(X, end="\n\n") + "\n",
    "ID column": lambda X: as_text(X, prefix=lambda i: f"sub-{i:02}"),
    "ID column and header": lambda X: as_text(
        X, prefix=lambda i: f"sub-{i:02}", header="participant_id,mean,sex,age"
    ),
    "ID column in a TSV": lambda X: as_text(
        X, "\t", prefix=lambda i: f"sub-{i:02}", header="participant_id\tmean\tsex\tage"
    ),
    "R's write.table": lambda X: as_text(
        X, " ", prefix=lambda i: f'"{i + 1}"', header='"mean" "sex" "age"'
    ),
}


@pytest.mark.parametrize("kind", DESIGNS)
def test_every_way_to_write_a_design_gives_the_same_maps(study, kind):
    before = study.maps_of()
    study.write("X.csv", DESIGNS[kind](study.X))
    after = study.maps_of()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    names = study.sidecar("blm_vox_beta")["Volumes"]
    assert names in (["X1", "X2", "X3"], ["mean", "sex", "age"], ["mean, all", "sex", "age"])


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff{}",
        "{}\n\n\n",
        "\n\n{}",
        "  {}  ",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \n"])
def test_every_way_to_write_a_list_names_the_same_images(study, text, end):
    names = [f"s{i:02}.nii" for i in range(12)]
    study.write("Y.txt", text.format(end.join(names)))
    result = study.run("--check")
    assert result.code == 0, result.err
    assert "12 images" in result.out


def test_image_names_may_hold_spaces_and_other_letters(study):
    for i in range(12):
        (study.folder / f"s{i:02}.nii").rename(study.folder / f"Größe {i} , #.nii")
    study.write("Y.txt", "".join(f"Größe {i} , #.nii\n" for i in range(12)))
    assert study.run().code == 0
    assert nib.load(study.path("blm_vox_n")).get_fdata().max() == 12
