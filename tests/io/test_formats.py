"""A file of another program is named, with a line that makes text of it."""

import bz2
import gzip
import io
import lzma
import pickle
import subprocess
import zipfile

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from nipype_blm.errors import InputError
from nipype_blm.io.tables import read_labels, read_path_list, read_table
from nipype_blm.io.yamlfile import read_yaml

X = np.array([[1.0, 2], [1, 3], [1, 5]])
VEST = b"/NumWaves\t2\n/NumPoints\t3\n/PPheights\t1 3\n\n/Matrix\n1\t2\t\n1\t3\t\n1\t5\t\n"
CONTRASTS = b"/ContrastName1\tage\n/NumWaves\t2\n/NumContrasts\t1\n\n/Matrix\n0 1\n"


def written(write, *arguments, **options):
    """Return the bytes that a function writes to a file."""
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def zipped(*names, content=b"x"):
    """Return an archive with files in the order in which the program writes them."""

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, content)

    return written(write)


ODS_TYPE = b"application/vnd.oasis.opendocument.spreadsheet"
BINARY = {
    "SPM.mat": (
        written(savemat, {"SPM": {"xX": {"X": X}}}),
        ["MATLAB file", "writematrix(SPM.xX.X"],
    ),
    "SPM73.mat": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(474) + b"\x89HDF", ["MATLAB"]),
    "X.xlsx": (
        zipped("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"),
        ["Excel", "CSV UTF-8"],
    ),
    "X.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), ["Excel", "CSV UTF-8"]),
    "X.ods": (zipped("mimetype", "content.xml", content=ODS_TYPE), ["LibreOffice", "CSV UTF-8"]),
    "X.zip": (zipped("X.csv"), ["a zip archive; unzip it"]),
    "X.npy": (written(np.save, X), ["NumPy's .npy", "np.savetxt"]),
    "X.npz": (written(np.savez, X=X), ["NumPy's .npz", "np.savetxt"]),
    "X.pkl": (pickle.dumps(X), ["a pickle of Python"]),
    "X.dta": (written(pd.DataFrame(X, columns=["a", "b"]).to_stata, version=118), ["Stata"]),
    "X.sav": (b"$FL2@(#) SPSS DATA FILE" + bytes(200), ["SPSS"]),
    "X.parquet": (b"PAR1\x15\x04" + bytes(50) + b"PAR1", ["Parquet", "pd.read_parquet"]),
    "X.feather": (b"ARROW1\0\0" + bytes(50), ["Feather", "pd.read_feather"]),
    "X1.feather": (b"FEA1" + bytes(50), ["Feather"]),
    "X.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), ["HDF5"]),
    "X.csv.gz": (gzip.compress(b"1,2\n1,3\n"), ["compressed; decompress it"]),
    "X.csv.bz2": (bz2.compress(b"1,2\n"), ["compressed; decompress it"]),
    "X.csv.xz": (lzma.compress(b"1,2\n"), ["compressed; decompress it"]),
    "X.csv.zst": (b"\x28\xb5\x2f\xfd\x04", ["compressed; decompress it"]),
    "X.pdf": (b"%PDF-1.7\n\xe2\xe3", ["a PDF file"]),
    "X.nii": (nib.Nifti1Image(X[..., None], np.eye(4)).to_bytes(), ["is an image"]),
    "X.nii.gz": (
        gzip.compress(nib.Nifti1Image(X[..., None], np.eye(4)).to_bytes()),
        ["is an image"],
    ),
    "X2.nii": (nib.Nifti2Image(X[..., None], np.eye(4)).to_bytes(), ["is an image"]),
    "X.mgh": (nib.MGHImage(X[..., None].astype("f4"), np.eye(4)).to_bytes(), ["is an image"]),
}
TEXT = {
    "design.fsf": (b"\n# FEAT version number\nset fmri(version) 6.00\n", ["FEAT (.fsf)"]),
    "X.fsgd": (b"GroupDescriptorFile 1\nTitle OSGM\nClass Main\nInput s1 Main 30\n", ["FSGD"]),
    "X.xmat.1D": (b'# <matrix\n# ni_type = "2*double"\n# >\n 1 2\n 1 3\n# </matrix>\n', ["1dcat"]),
    "table.txt": (b"Subj  Group  InputFile\ns1 a s1+tlrc\ns2 b s2+tlrc\n", ["-dataTable of AFNI"]),
    "quoted.txt": (b'"Subj"\t"Group"\t"InputFile"\n"s1"\t"a"\t"s1.nii"\n', ["-dataTable of AFNI"]),
    "participants.json": (b'{\n  "age": {"Units": "years"}\n}\n', ["sidecar of BIDS", ".tsv"]),
    "list.json": (b'["a.nii", "b.nii"]\n', ["JSON"]),
    "model.json": (b'{"Name": "m",\n "BIDSModelVersion": "1.0.0"}\n', ["a BIDS Stats Model"]),
    "X.html": (b"<!DOCTYPE html>\n<html>", ["a web page"]),
}


def error_of(read, path):
    with pytest.raises(InputError) as error:
        read(path, "X")
    [problem] = error.value.problems
    assert problem.startswith(f"X {path} is ")
    assert len(problem.splitlines()) == 1
    return problem


@pytest.mark.parametrize("read", [read_table, read_labels, read_path_list])
@pytest.mark.parametrize("name", [*BINARY, *TEXT])
def test_a_format_of_another_program_is_named_with_what_to_do(tmp_path, name, read):
    """Designs, tables and lists of other programs, given as X, Z, labels or lists."""
    content, parts = (BINARY | TEXT)[name]
    path = tmp_path / name
    path.write_bytes(content)
    for part in parts:
        assert part in error_of(read, path)


VEST_FILES = {
    "design.mat": VEST,
    "design.con": CONTRASTS,
    "design.fts": b"/NumWaves\t1\n/NumContrasts\t1\n\n/Matrix\n1\n",
    "design.grp": b"/NumWaves\t1\n/NumPoints\t3\n\n/Matrix\n1\n1\n1\n",
}


@pytest.mark.parametrize("name", VEST_FILES)
def test_a_vest_file_is_named_where_images_are_listed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(VEST_FILES[name])
    for part in ("FSL's VEST format", "Vest2Text"):
        assert part in error_of(read_path_list, path)


@pytest.mark.parametrize("name", BINARY)
def test_a_binary_format_is_named_whatever_the_file_is_called_and_also_as_yaml(tmp_path, name):
    content, parts = BINARY[name]
    path = tmp_path / "X.csv"
    path.write_bytes(content)
    assert parts[0] in error_of(read_yaml, path)


R_FILES = {
    "X.rds": "saveRDS(X, 'X.rds')",
    "plain.rds": "saveRDS(X, 'plain.rds', compress = FALSE)",
    "ascii.rds": "saveRDS(X, 'ascii.rds', ascii = TRUE)",
    "X.RData": "save(X, file = 'X.RData')",
    "X2.RData": "save(X, file = 'X2.RData', version = 2)",
}


def test_files_of_r_are_named(tmp_path, require_command):
    rscript = require_command("Rscript", "r-base-core")
    script = "; ".join(["X <- data.frame(a = 1:3, b = c(2, 3, 5))", *R_FILES.values()])
    subprocess.run([rscript, "-e", script], cwd=tmp_path, check=True)
    for name in R_FILES:
        problem = error_of(read_table, tmp_path / name)
        assert "of R; in R: write.csv(" in problem, name


def test_what_vest2text_and_r_write_is_read(tmp_path):
    """The columns of FSL's programs end with a separator."""
    path = tmp_path / "X.txt"
    path.write_bytes(VEST.partition(b"/Matrix\n")[2])
    np.testing.assert_array_equal(read_table(path, "X").values, X)
    path.write_text('"","mean","age"\n"s1",1,2\n"s2",1,3\n"s3",1,5\n')
    np.testing.assert_array_equal(read_table(path, "X").values, X)


def test_a_table_like_another_format_is_read(tmp_path):
    path = tmp_path / "X.csv"
    for text in (
        "Subj,age\na,1\nb,2\n",
        "Matrix,age\n1,2\n2,3\n",
        "PAR,FEA\n1,2\n3,4\n",
        *(f"{name}\n1\n1\n1\n" for name in ("X", "A", "B", "RDX3", "PAR1", "FEA1", "BZh9", "%PDF")),
    ):
        path.write_text(text)
        assert read_table(path, "X").has_header


@pytest.mark.parametrize(
    "label", ["PAR1", "RDA1", "FEA1", "BZh1", "B", "X", "A", "MATLAB", "ARROW1"]
)
def test_labels_that_begin_like_another_format_are_labels(tmp_path, label):
    path = tmp_path / "labels.txt"
    path.write_text(f"{label}\n1\nParticipant Zo\u00eb\n")
    assert read_labels(path, "labels")[0] == label


def test_a_list_of_images_on_a_disk_with_the_name_of_a_keyword_is_read(tmp_path):
    path = tmp_path / "images.txt"
    path.write_text("/Matrix/s1.nii.gz\n/NumWaves/s2.nii.gz\n")
    assert len(read_path_list(path, "Y_files")) == 2
