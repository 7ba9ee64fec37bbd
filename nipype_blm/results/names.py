"""Which files of a folder are results, that a run may replace."""

from nipype_blm.results.maps import is_map_name
from nipype_blm.results.saved import is_model_file


def is_result_name(name: str, model: str) -> bool:
    """Return whether a file, relative to the output folder, could be one that a run publishes."""
    return is_map_name(name, model) or is_model_file(name)
