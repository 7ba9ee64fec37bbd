"""Maps are found by their names, whoever wrote them."""

import pytest

from nipype_blm.data.maps import load_image
from nipype_blm.errors import InputError


def test_a_map_whose_content_is_still_to_be_fetched_says_so(tmp_path):
    """Results that were shared as links of git-annex."""
    (tmp_path / "m.nii").symlink_to(".git/annex/objects/aa/bb/MD5E-s9--ab.nii/MD5E-s9--ab.nii")
    with pytest.raises(InputError, match=r"m\.nii is not here yet: .* `datalad get "):
        load_image(tmp_path / "m.nii")
