"""Output maps: their names, shapes, types, headers and sidecars, and what becomes of old ones."""

import json

import mpmath
import nibabel as nib
import numpy as np
import pytest
from scipy import stats

SHAPE = (4, 3, 2)
P, N_T, N_F = 3, 1, 1
# BLM's maps: volumes (None: 3D), type, intent.
MAPS = {
    "mask": (None, "uint8", "label"),
    "status": (None, "uint8", "label"),
    "n": (None, "int32", "none"),
    "edf": (None, "int32", "none"),
    "beta": (P, "float", "estimate"),
    "resms": (None, "float", "estimate"),
    "llh": (None, "float", "estimate"),
    "cov": (P * P, "float", "estimate"),
    "con": (N_T, "float", "estimate"),
    "conSE": (N_T, "float", "estimate"),
    "conT": (N_T, "float", "t test"),
    "conTlp": (N_T, "float", "log10 p value"),
    "conF": (N_F, "float", "f test"),
    "conFlp": (N_F, "float", "log10 p value"),
    "conR2": (N_F, "float", "estimate"),
}
# Maps of each contrast: volumes for one row and for two rows of L, intent (T, F).
KINDS = {
    "effect": (None, 2, "estimate", "estimate"),
    "variance": (None, 4, "estimate", "estimate"),
    "stat": (None, None, "t test", "f test"),
    "z": (None, None, "z score", "z score"),
    "p": (None, None, "p value", "p value"),
}


def shape_of(n_volumes):
    return SHAPE if n_volumes is None else (*SHAPE, n_volumes)


def statmap(study, label, kind):
    kind = {"stat": {"age": "t", "any": "F"}[label]}.get(kind, kind)
    return study.outdir / "contrasts" / f"contrast-{label}_stat-{kind}_statmap.nii"


def test_the_output_folder_holds_the_documented_files_and_no_other(study):
    study.maps_of()
    stems = {f"blm_vox_{name}" for name in MAPS}
    expected = {f"{stem}{end}" for stem in stems for end in (".nii", ".json")}
    visible = {name for name in study.results() if not name.startswith(".")}
    assert visible == expected | {"inputs.yml", "contrasts", "model"}
    maps = [statmap(study, label, kind) for label in ("age", "any") for kind in KINDS]
    expected = {path.with_suffix(end).name for path in maps for end in (".nii", ".json")}
    assert {p.name for p in (study.outdir / "contrasts").iterdir()} == expected


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("compress", [False, True])
def test_each_map_has_its_shape_type_and_intent(study, name, compress):
    study.maps_of(compress=compress)
    n_volumes, dtype, intent = MAPS[name]
    path = study.path(f"blm_vox_{name}")
    assert path.name.endswith(".nii.gz" if compress else ".nii")
    image = nib.load(path)
    assert image.header.get_data_shape() == shape_of(n_volumes)
    assert image.get_data_dtype() == ("float32" if dtype == "float" else dtype)
    assert image.header.get_intent("label")[0] == intent
    assert image.header["descrip"].item().decode()
    assert np.isfinite(image.get_fdata()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", ["age", "any"])
def test_each_map_of_a_contrast_has_its_shape_and_intent(study, kind, label):
    study.maps_of()
    image = nib.load(statmap(study, label, kind))
    is_f = label == "any"
    assert image.shape == shape_of(KINDS[kind][is_f])
    assert image.header.get_intent()[0] == KINDS[kind][2 + is_f]
    assert label in image.header["descrip"].item().decode()
    if kind == "stat":
        median = np.median(study.map("edf")[study.map("mask") > 0])
        assert image.header.get_intent()[1] == ((2, median) if is_f else (median,))


@pytest.mark.parametrize("voxels_per_block", [None, 5])
def test_few_voxels_with_few_images_do_not_set_the_degrees_of_freedom_of_headers(
    study, voxels_per_block
):
    values = np.random.default_rng(1).normal(size=(12, *SHAPE))
    values[5:, 3, 2, 1] = np.nan  # 2 degrees of freedom
    values[9:, 0, 0, 0] = np.nan  # 6
    for i, image in enumerate(values):
        study.save_image(f"s{i:02}.nii", image)
    study.maps_of(voxels_per_block=voxels_per_block)
    for label, kind, expected, text in [
        ("age", "t", (9,), "T_[9]"),
        ("any", "F", (2, 9), "F_[2,9]"),
    ]:
        stem = f"contrasts/contrast-{label}_stat-{kind}_statmap"
        header = nib.load(study.outdir / f"{stem}.nii").header
        assert header.get_intent()[1] == expected
        assert header["descrip"].item().decode() == f"{text}: {label}"
        found = study.sidecar(stem)["DegreesOfFreedom"]
        assert [found[name] for name in ("Minimum", "Median", "Maximum")] == [2, 9, 9]
        assert "not the number of each voxel" in found["Description"]
        stacked = nib.load(study.path(f"blm_vox_con{kind.upper()}")).header
        assert stacked.get_intent()[1] == expected
    [entry] = study.sidecar("blm_vox_conT")["Contrasts"]
    assert entry["DegreesOfFreedom"]["Minimum"] == 2


@pytest.mark.parametrize("position", [0, 11])
def test_maps_are_double_precision_if_any_image_is(study, position):
    study.save_image(f"s{position:02}.nii", study.values[position], np.float64)
    study.maps_of()
    for name, (_, dtype, _) in MAPS.items():
        expected = "float64" if dtype == "float" else dtype
        assert nib.load(study.path(f"blm_vox_{name}")).get_data_dtype() == expected
    assert nib.load(statmap(study, "age", "z")).get_data_dtype() == "float64"


@pytest.mark.parametrize("codes", [(1, 0), (0, 4), (1, 2)])
@pytest.mark.parametrize("compress", [False, True])
def test_every_map_lies_in_the_space_of_the_images_with_their_codes(study, codes, compress):
    for i in range(12):
        path = study.folder / f"s{i:02}.nii"
        image = nib.load(path)
        header = image.header.copy()
        header.set_qform(np.diag([2.0, 2, 3, 1]), codes[0])
        header.set_sform(image.affine, codes[1])
        header.set_xyzt_units("mm", "sec")
        nib.save(nib.Nifti1Image(study.values[i].astype(np.int16), None, header), path)
    source = nib.load(study.folder / "s00.nii")
    study.maps_of(compress=compress)
    paths = list(study.outdir.glob("*.nii*")) + list(study.outdir.glob("contrasts/*.nii*"))
    assert len(paths) == 25
    for path in paths:
        image = nib.load(path)
        np.testing.assert_array_equal(image.affine, source.affine)
        assert int(image.header["qform_code"]) == codes[0]
        assert int(image.header["sform_code"]) == codes[1]
        np.testing.assert_array_equal(image.header.get_qform(), source.header.get_qform())
        assert image.header.get_xyzt_units()[0] == "mm"


def test_every_map_has_a_sidecar_that_explains_it(study):
    study.maps_of()
    for path in [*study.outdir.glob("*.nii"), *study.outdir.glob("contrasts/*.nii")]:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["Description"]
        assert sidecar["GeneratedBy"]["Name"] == "nipype_blm"
        shape = nib.load(path).header.get_data_shape()
        assert len(sidecar.get("Volumes", [])) == (shape[3] if len(shape) == 4 else 0)


def test_volumes_are_labelled_with_the_names_of_columns_and_contrasts(study):
    header = ",".join(["mean", "sex", "age in years"])
    np.savetxt(study.folder / "X.csv", study.X, delimiter=",", header=header, comments="")
    study.maps_of()
    assert study.sidecar("blm_vox_beta")["Volumes"] == ["mean", "sex", "age in years"]
    assert study.sidecar("blm_vox_cov")["Volumes"][1] == "mean x sex"
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["age"]
    assert study.sidecar("blm_vox_conF")["Volumes"] == ["any"]
    assert study.sidecar("blm_vox_conT")["Contrasts"][0]["Weights"] == [0, 0, 1]
    assert study.sidecar("blm_vox_conF")["Contrasts"][0]["Weights"] == [[0, 1, 0], [0, 0, 1]]


def test_maps_agree_with_each_other(study):
    m = study.maps_of()
    inside = m["blm_vox_mask"] > 0
    edf, t = m["blm_vox_edf"][inside], m["blm_vox_conT"][inside, 0]
    np.testing.assert_array_equal(edf, m["blm_vox_n"][inside] - 3)
    same = [
        (m["blm_vox_con"][..., 0], m["blm_vox_beta"][..., 2]),
        (m["blm_vox_conSE"][..., 0] ** 2, m["blm_vox_cov"][..., 8]),
        (m["blm_vox_cov"][..., 1], m["blm_vox_cov"][..., 3]),
        (m["contrast-age_stat-effect_statmap"], m["blm_vox_con"][..., 0]),
        (m["contrast-age_stat-variance_statmap"], m["blm_vox_conSE"][..., 0] ** 2),
        (m["contrast-age_stat-t_statmap"], m["blm_vox_conT"][..., 0]),
        (m["contrast-any_stat-F_statmap"], m["blm_vox_conF"][..., 0]),
        (m["contrast-any_stat-effect_statmap"], m["blm_vox_beta"][..., 1:]),
        (m["contrast-any_stat-variance_statmap"], m["blm_vox_cov"][..., [4, 5, 7, 8]]),
    ]
    for one, other in same:
        np.testing.assert_allclose(one, other, rtol=1e-6)  # single precision
    # p and z are tails of rounded statistics: single precision once more.
    np.testing.assert_allclose(
        m["blm_vox_conTlp"][inside, 0], -np.log10(stats.t.sf(t, edf)), rtol=1e-5
    )
    p = m["contrast-age_stat-p_statmap"][inside]
    np.testing.assert_allclose(p, stats.t.sf(t, edf), rtol=1e-5)
    z = m["contrast-age_stat-z_statmap"][inside]
    np.testing.assert_allclose(stats.norm.sf(z), p, rtol=1e-5)
    f = m["blm_vox_conF"][inside, 0]
    np.testing.assert_allclose(
        m["contrast-any_stat-p_statmap"][inside], stats.f.sf(f, 2, edf), rtol=1e-5
    )
    np.testing.assert_allclose(m["blm_vox_conR2"][inside, 0], 2 * f / (2 * f + edf), rtol=1e-6)


def test_two_sided_changes_p_of_t_contrasts_only(study):
    one = study.maps_of()
    two = study.maps_of(two_sided=True)
    inside = one["blm_vox_mask"] > 0
    for name in one:
        changed = name in ("blm_vox_conTlp", "contrast-age_stat-p_statmap")
        assert np.array_equal(one[name], two[name]) != changed, name
    p = one["contrast-age_stat-p_statmap"][inside].astype(float)
    # The maps are single precision, also 1 - p.
    np.testing.assert_allclose(
        two["contrast-age_stat-p_statmap"][inside], 2 * np.minimum(p, 1 - p), rtol=1e-5
    )


def test_a_finite_log10_p_beyond_minlog_is_kept(study):
    n = 80
    x = np.linspace(-1, 1, n)
    rng = np.random.default_rng(0)
    values = 5 + x + 1e-6 * rng.normal(size=(2, 1, 1, n))
    nib.save(nib.Nifti1Image(values, np.eye(4)), study.folder / "y.nii")
    study.write_design(np.c_[np.ones(n), x, rng.normal(size=n)])
    contrasts = [{"c1": {"name": "up", "vector": [0, 1, 0]}}]
    study.maps_of(Y_files="y.nii", contrasts=contrasts, minlog=-100)
    lp = study.map("conTlp").ravel()
    t = study.map("conT").ravel()
    assert (lp > 400).all()
    for t_value, lp_value in zip(t.astype(float), lp, strict=True):
        df = n - 3
        p = mpmath.betainc(df / 2, 0.5, 0, df / (df + t_value**2), regularized=True) / 2
        # Digits that the statistic itself has lost: the residuals are 1e-6 of the data.
        assert lp_value == pytest.approx(float(-mpmath.log10(p)), rel=1e-6)


def test_covariances_are_written_only_on_request(study):
    study.maps_of(OutputCovB=False)
    assert not (study.outdir / "blm_vox_cov.nii").exists()
    assert not (study.outdir / "blm_vox_cov.json").exists()


def test_maps_for_contrasts_that_are_not_there_are_not_written(study):
    [t, f] = study.fields["contrasts"]
    study.maps_of(contrasts=[t])
    assert not list(study.outdir.glob("blm_vox_conF*"))
    assert not list(study.outdir.glob("blm_vox_conR2*"))
    study.maps_of(contrasts=[f])
    assert [p.name for p in study.outdir.glob("blm_vox_con*.nii")] != []
    assert not list(study.outdir.glob("blm_vox_conT*"))
    assert not list(study.outdir.glob("blm_vox_con.*"))


# --------------------------------------------------------------------------- contrasts


def test_an_f_contrast_may_stand_first(study):
    before = study.maps_of()
    after = study.maps_of(contrasts=study.fields["contrasts"][::-1])
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_volumes_follow_the_order_of_contrasts_of_their_kind(study):
    contrasts = [
        {"c1": {"name": "third", "vector": [0, 0, 1]}},
        {"c2": {"name": "both", "vector": [[0, 1, 0], [0, 0, 1]]}},
        {"c3": {"name": "second", "vector": [0, 1, 0]}},
        {"c4": {"name": "one row", "vector": [[0, 1, 0]]}},
    ]
    study.maps_of(contrasts=contrasts)
    np.testing.assert_allclose(study.map("con"), study.map("beta")[..., [2, 1]], rtol=1e-6)
    assert study.sidecar("blm_vox_conT")["Volumes"] == ["third", "second"]
    assert study.sidecar("blm_vox_conF")["Volumes"] == ["both", "one row"]
    # F of one row is T squared; both are single precision.
    np.testing.assert_allclose(study.map("conF")[..., 1], study.map("conT")[..., 1] ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("t", "f"),
    [
        ("[0 0 1/2]", "[[0 1 0] [0 0 1]]"),
        ("[0, 0, 0.5]", "[[0, 1, 0], [0, 0, 1]]"),
        ("0 0 .5", "[[0,1,0];[0,0,1]]"),
        ([0, 0, "1/2"], [["0", "1", "0"], [0, 0, 1]]),
        ([0, 0, "2**-1"], [[0, "3/3", 0], [0, 0, 1.0]]),
    ],
)
def test_every_notation_of_contrasts_gives_the_same_maps(study, t, f):
    def contrasts(t, f):
        return [{"c1": {"name": "t", "vector": t}}, {"c2": {"name": "f", "vector": f}}]

    before = study.maps_of(contrasts=contrasts([0, 0, 0.5], [[0, 1, 0], [0, 0, 1]]))
    after = study.maps_of(contrasts=contrasts(t, f))
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_names_that_differ_give_files_that_differ(study):
    names = ["a", "A", "a b", "a-b", "a3", "a", "+", "*", "../../x"]
    names[5] = "a."  # two contrasts may not have one name
    contrasts = [{f"c{i}": {"name": name, "vector": [0, 0, i]}} for i, name in enumerate(names, 1)]
    study.maps_of(contrasts=contrasts)
    paths = list((study.outdir / "contrasts").glob("*_stat-effect_statmap.nii"))
    assert len({p.name.lower() for p in paths}) == len(names)
    beta = study.map("beta")[..., 2]
    found = {}
    for path in paths:
        name = json.loads(path.with_suffix(".json").read_text())["Contrast"]["Name"]
        found[name] = nib.load(path).get_fdata()
    assert found.keys() == set(names)
    for i, name in enumerate(names, 1):
        np.testing.assert_allclose(found[name], i * beta.astype(float), rtol=1e-6)


# ---------------------------------------------------------------------------- old files


def test_maps_that_a_later_run_does_not_make_are_removed_when_it_completes(study):
    contrasts = study.fields["contrasts"]
    study.maps_of()
    study.maps_of(contrasts=[{"c1": contrasts[0]["c1"] | {"name": "new"}}], OutputCovB=False)
    names = {p.name for p in study.outdir.rglob("*") if "work" not in p.parts[-3:]}
    for gone in ["conF", "conFlp", "conR2", "cov"]:
        assert not any(name.startswith(f"blm_vox_{gone}.") for name in names), gone
    assert not any("contrast-age" in name or "contrast-any" in name for name in names)
    assert any("contrast-new" in name for name in names)


def test_uncompressed_maps_are_replaced_by_compressed_ones_and_back(study):
    before = study.maps_of()
    after = study.maps_of(compress=True)
    assert not list(study.outdir.glob("*.nii"))
    assert not list(study.outdir.glob("contrasts/*.nii"))
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    study.maps_of()
    assert not list(study.outdir.glob("*.nii.gz"))


def test_maps_that_blm_py_left_are_replaced(study):
    study.outdir.mkdir()
    for name in ["cov", "conF", "conSE"]:
        nib.save(
            nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), study.outdir / f"blm_vox_{name}.nii"
        )
    study.maps_of(contrasts=study.fields["contrasts"][:1], OutputCovB=False)
    assert not (study.outdir / "blm_vox_cov.nii").exists()
    assert not (study.outdir / "blm_vox_conF.nii").exists()
    assert study.map("conSE").shape == (*SHAPE, 1)


def test_foreign_files_are_untouched(study):
    foreign = [
        "notes.txt",
        "blm_vox_mine.nii",
        "blm_vox_beta_smoothed.nii.gz",
        "blmm_vox_beta.nii",
        "zstat.nii",
        "figures/a.png",
        "contrasts/mine.nii.gz",
        "contrasts/contrast-old_stat-t_statmap.nii.gz",
        "tmp/x",
        ".hidden",
    ]
    for name in foreign:
        path = study.outdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    study.run()
    study.run("--clean", compress=True)
    for name in foreign:
        assert (study.outdir / name).read_text() == name


def test_a_record_that_names_files_elsewhere_removes_nothing(study):
    keep = study.write("keep.nii", "keep")
    study.run()
    record = study.outdir / ".nipype_blm.json"
    data = json.loads(record.read_text())
    for name in ["../keep.nii", str(keep), "contrasts/contrast-/../../../keep.nii"]:
        data["files"][name] = [4, keep.stat().st_mtime_ns]
    record.write_text(json.dumps(data))
    assert study.run(two_sided=True).code == 0
    assert keep.read_text() == "keep"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"stamp": 1, "files": 2}', "\x00"])
def test_a_damaged_record_does_not_stop_a_run(study, content):
    before = study.maps_of()
    record = study.outdir / ".nipype_blm.json"
    record.write_text(content)
    after = study.maps_of()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_an_interrupted_publication_is_finished_by_the_next_run(study):
    study.maps_of()
    study.path("blm_vox_mask").unlink()
    obstacle = study.outdir / "blm_vox_mask.nii"
    obstacle.mkdir()  # no map can be moved here, after others have been
    contrasts = [{"c1": {"name": "new", "vector": [0, 1, 0]}}]
    result = study.run(contrasts=contrasts, compress=False)
    assert result.code == 1
    assert "blm_vox_mask.nii" in result.err
    obstacle.rmdir()
    interrupted = study.maps_of(contrasts=contrasts)
    left = [p.name for p in study.outdir.iterdir() if p.name.endswith(".part")]
    assert left == []
    assert not list(study.outdir.glob("contrasts/contrast-age*"))
    assert not list(study.outdir.glob("blm_vox_conF*"))
    study.outdir.rename(study.folder / "first")
    for name, values in study.maps_of(contrasts=contrasts).items():
        np.testing.assert_array_equal(interrupted[name], values, err_msg=name)


def test_a_link_in_place_of_a_map_is_replaced_and_its_target_is_not_written(study):
    target = study.write("precious.nii", "precious")
    study.outdir.mkdir()
    (study.outdir / "blm_vox_beta.nii").symlink_to(target)
    study.maps_of()
    assert target.read_text() == "precious"
    assert not (study.outdir / "blm_vox_beta.nii").is_symlink()
