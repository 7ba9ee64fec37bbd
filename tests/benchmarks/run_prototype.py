"""Run the prototype of the data path: ``run_prototype.py FOLDER_OF_PROTO CONFIG.yml``.

One thread; p-values are computed and maps written, as plainly as possible.
"""

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import proto  # sets the number of BLAS threads: before NumPy

# isort: split
import nibabel as nib
import numpy as np
import yaml
from scipy.special import stdtr

config = yaml.safe_load(Path(sys.argv[2]).read_text())
files = Path(config["Y_files"]).read_text().split("\n")
X = np.loadtxt(config["X"], delimiter=",")
vector = np.array(config["contrasts"][0]["c1"]["vector"], float)
found, _ = proto.blm(files, X, vector, nmin=config["Missingness"]["MinPercent"])

fitted = found["status"] == 1
n, resms, T = (found[name][fitted] for name in ("n", "resms", "T"))
edf = n - X.shape[1]
maps = {
    "mask": np.ones(len(n)),
    "n": n,
    "edf": edf,
    "beta": found["beta"][:, fitted],
    "resms": resms,
    "llh": -n / 2 * (np.log(2 * np.pi * resms * edf / n) + 1),
    "con": found["con"][fitted],
    "conSE": found["con"][fitted] / T,
    "conT": T,
    "conTlp": -np.log10(stdtr(edf, -T)),
}
header = nib.load(files[0]).header
header["vox_offset"] = 352
outdir = Path(config["outdir"])
outdir.mkdir(parents=True, exist_ok=True)
for name, values in maps.items():
    grid = np.zeros((*values.shape[:-1], fitted.size))
    grid[..., fitted] = values
    header.set_data_shape((*header.get_data_shape()[:3], *values.shape[:-1]))
    with (outdir / f"blm_vox_{name}.nii").open("wb") as file:
        file.write(bytes(header.binaryblock) + bytes(4))
        file.write(grid.data)
