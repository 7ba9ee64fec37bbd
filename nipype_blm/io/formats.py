"""Formats of other programs, given where a text file is expected: their names and what to do."""

import codecs
import re
import zlib
from contextlib import suppress
from typing import NamedTuple


class Format(NamedTuple):
    """How the content of a file is known, and how a table comes of it."""

    sign: re.Pattern[bytes]  # searched in its first bytes
    name: str
    advice: str


_SHEET = "save the sheet as CSV UTF-8"
_PYTHON = "python -c 'import"
_NPY = f'{_PYTHON} numpy as np; np.savetxt("X.csv", '
_PANDAS = f"{_PYTHON} pandas as pd; pd."
_TO_CSV = '.to_csv("X.csv", index=False)\''
_IN_R = "in R: write.csv("
_SPM = "in MATLAB: load SPM.mat; writematrix(SPM.xX.X, 'X.csv')"


def _format(sign: bytes, name: str, advice: str) -> Format:
    return Format(re.compile(sign, re.DOTALL | re.MULTILINE), name, advice)


_COMPRESSED = _format(
    rb"\A(\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd)", "compressed", "decompress it"
)
_BINARY = [
    _format(
        rb"\A(\x5c\x01\0\0|\0\0\x01\x5c|\x1c\x02\0\0|\0\0\x02\x1c|\0\0\0\x01|CDF[\x01\x02])",
        "an image",
        "give a text file",
    ),
    _format(
        rb"\APK\x03\x04.*opendocument\.spreadsheet", "a LibreOffice spreadsheet (.ods)", _SHEET
    ),
    _format(rb"\APK\x03\x04.*\.npy", "NumPy's .npz", f'{_NPY}np.load("X.npz")["X"])\''),
    _format(rb"\APK\x03\x04.*xl/", "an Excel file (.xlsx)", _SHEET),
    _format(rb"\APK\x03\x04", "a zip archive", "unzip it"),
    _format(rb"\A\xd0\xcf\x11\xe0", "an Excel file (.xls)", _SHEET),
    _format(rb"\AMATLAB [57]\.\d MAT-file", "a MATLAB file such as SPM.mat", _SPM),
    _format(rb"\A\x89HDF", "an HDF5 file", "write its table as CSV"),
    _format(rb"\A\x93NUMPY", "NumPy's .npy", f'{_NPY}np.load("X.npy"))\''),
    _format(rb"\APAR1", "a Parquet file", f'{_PANDAS}read_parquet("X.parquet"){_TO_CSV}'),
    _format(rb"\A(ARROW1|FEA1)", "a Feather file", f'{_PANDAS}read_feather("X.feather"){_TO_CSV}'),
    _format(
        rb"\ARD[ABX]\d\n",
        "an .RData file of R",
        f"{_IN_R}X, 'X.csv', row.names = FALSE) after load('X.RData')",
    ),
    _format(
        rb"\A([XB]\n\0\0\0[\x01-\x09]|A\n[23]\n\d{6}\n\d{6}\n)",
        "an .rds file of R",
        f"{_IN_R}readRDS('X.rds'), 'X.csv', row.names = FALSE)",
    ),
    _format(rb"\A\$FL[23]", "an SPSS file (.sav)", "save it as CSV"),
    _format(rb"\A<stata_dta>", "a Stata file (.dta)", "export delimited using X.csv"),
    _format(rb"\A\x80[\x02-\x05]", "a pickle of Python", "write its table as CSV"),
    _format(rb"\A%PDF", "a PDF file", "give a text file"),
]
_DATA_TABLE = _format(
    rb"\A[ \t\"']*Subj\b[^\n]*\bInputFile\b",
    "a -dataTable of AFNI",
    "its last column lists the images (awk 'NR > 1 {print $NF}' table.txt > images.txt), and X "
    "has the others in numbers",
)
_VEST = _format(
    rb"\A\s*/(Num(Waves|Points|Contrasts)|ContrastName\d+|PPheights)\s|^\s*/Matrix\s*$",
    "FSL's VEST format (.mat, .con, .fts, .grp)",
    "Vest2Text X.mat X.txt writes its numbers",
)
_TEXT = [
    _VEST,
    _format(
        rb"\A[^\n]*FEAT version|^set fmri\(",
        "a design of FSL's FEAT (.fsf)",
        "feat_model makes a .mat of it, and Vest2Text X.mat X.txt writes its numbers",
    ),
    _format(
        rb"\A\s*GroupDescriptorFile\b",
        "a group descriptor of FreeSurfer (FSGD)",
        "mri_glmfit writes the numbers as Xg.dat",
    ),
    _format(rb"\A#\s*<matrix", "a matrix of AFNI (.xmat.1D)", "1dcat X.xmat.1D > X.txt"),
    _DATA_TABLE,
    _format(
        rb"\A\s*\{.*\"BIDSModelVersion\"",
        "a BIDS Stats Model",
        "write the design of its level as CSV, with numbers only",
    ),
    _format(
        rb"\A\s*[\[{]\s*[\"\[{\]}]",
        "JSON, such as a sidecar of BIDS",
        "give the table itself, such as the .tsv beside it",
    ),
    _format(rb"\A\s*<(!DOCTYPE|html|\?xml)", "a web page or XML", "download or export the table"),
]
START_SIZE = 2**16  # bytes of a file that tell its format


def name_binary(start: bytes) -> str | None:
    """Return the name of a binary format, and how a text file comes of it."""
    if _is_text(start):  # which may begin with the letters of a format, such as PAR1
        return None
    inner = start
    if start.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            inner = zlib.decompressobj(31).decompress(start, START_SIZE)
    found = _find(_BINARY, inner)
    if found is None and _COMPRESSED.sign.match(start):
        found = _COMPRESSED
    return None if found is None else f"{found.name}; {found.advice}"


def name_text(text: str, may_have_words: bool = False) -> str | None:
    """Return the name of a format that is text, but no table, and how a table comes of it.

    Parameters
    ----------
    text : str
        The content of a file.
    may_have_words : bool
        Whether a table is wanted that has words and paths as well as numbers.
    """
    found = _find(_TEXT, text[:START_SIZE].encode(errors="replace"))
    if may_have_words and found is _DATA_TABLE:
        return None
    return None if found is None else f"{found.name}; {found.advice}"


def is_vest(text: str) -> bool:
    """Return whether a text is a Vest file, also one that is not complete."""
    return _VEST.sign.search(text[:START_SIZE].encode(errors="replace")) is not None


def _is_text(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)  # its end may be half a character
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _find(formats: list[Format], content: bytes) -> Format | None:
    return next((each for each in formats if each.sign.search(content)), None)
