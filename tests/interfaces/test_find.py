"""The node that finds the images of a BIDS data set writes a table that a model takes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bids_study import write_data_set

from nipype_blm import Results
from nipype_blm.errors import InputError
from nipype_blm.interfaces import BLM, FindImages

FILTERS = {"contrast": "faces", "stat": "effect"}


def find(bids: Path, cwd: Path, **inputs):
    return FindImages(bids=bids, filters=FILTERS, **inputs).run(cwd=cwd).outputs


def test_the_table_has_a_row_for_each_image_with_what_the_data_set_says(tmp_path):
    rows = write_data_set(tmp_path / "bids")
    found = find(tmp_path / "bids", tmp_path)
    table = pd.read_csv(found.table, sep="\t", dtype=str)
    assert Path(found.table) == tmp_path / "images.tsv"
    assert found.images == [str(row.image) for row in rows] == list(table["image"])
    for name in ("subject", "session", "sex", "site"):
        assert list(table[name]) == [getattr(row, name) for row in rows]
    assert list(table["age"].astype(float)) == [row.age for row in rows]
    assert "mask" not in table  # not all images have one, and so a notice says
    assert any("no brain mask" in notice for notice in found.notices)


def test_masks_are_a_column_if_all_images_have_one_and_a_model_takes_both(tmp_path):
    rows = write_data_set(tmp_path / "bids", 4)
    out_file = tmp_path / "tables" / "images.tsv"
    found = find(tmp_path / "bids", tmp_path, out_file=out_file, participants=["01", "sub-02"])
    table = pd.read_csv(found.table, sep="\t", dtype=str)
    assert list(table["mask"]) == [str(row.mask) for row in rows[:4]]
    before = out_file.stat()
    find(tmp_path / "bids", tmp_path, out_file=out_file, participants=["01", "sub-02"])
    assert out_file.stat() == before  # so that nodes behind it are cached
    fit = BLM(table=found.table, formula="~ 1", data_mask_files="mask", out_dir=tmp_path / "out")
    fit.run(cwd=tmp_path)
    results = Results(tmp_path / "out")
    assert [each.image for each in results.images] == found.images
    masks = [nib.load(row.mask).get_fdata() for row in rows[:4]]
    assert np.array_equal(results.array("n"), np.sum(masks, axis=0))


def test_filters_that_nothing_has_are_told_in_the_names_of_the_inputs(tmp_path):
    write_data_set(tmp_path / "bids", 2)
    with pytest.raises(InputError, match="No image has contrast=cars"):
        FindImages(bids=tmp_path / "bids", filters={"contrast": "cars"}).run(cwd=tmp_path)
