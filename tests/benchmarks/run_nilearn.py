"""Fit with nilearn and write all maps of each contrast: ``run_nilearn.py CONFIG.yml``."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from nilearn.glm.second_level import SecondLevelModel

config = yaml.safe_load(Path(sys.argv[1]).read_text())
files = Path(config["Y_files"]).read_text().split("\n")
X = pd.read_csv(config["X"], header=None)
X.columns = [f"x{i}" for i in X.columns]
outdir = Path(config["outdir"])
outdir.mkdir(parents=True, exist_ok=True)
model = SecondLevelModel(mask_img=config["analysis_mask"], minimize_memory=True)
model.fit(files, design_matrix=X)
for i, contrast in enumerate(config["contrasts"], 1):
    vector = np.array(contrast[f"c{i}"]["vector"], float)
    maps = model.compute_contrast(vector, output_type="all")
    for name, image in maps.items():
        image.to_filename(outdir / f"{i}_{name}.nii")
