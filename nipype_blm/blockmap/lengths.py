"""Units of length, by the names that stores have for them."""

from collections.abc import Sequence

from nipype_blm.blockmap.blocks import AXES

METRES = {
    **{"nm": 1e-9, "nanometer": 1e-9, "nanometre": 1e-9},
    **{"um": 1e-6, "µm": 1e-6, "micron": 1e-6, "micrometer": 1e-6, "micrometre": 1e-6},
    **{"mm": 1e-3, "millimeter": 1e-3, "millimetre": 1e-3},
    **{"cm": 1e-2, "centimeter": 1e-2, "m": 1.0, "meter": 1.0, "metre": 1.0},
}


def share_unit(
    axes: str, units: Sequence[str], *lengths: Sequence[float]
) -> tuple[list[list[float]], str]:
    """Return lengths along all axes in one unit, that of the last one of space, and the unit."""
    known = [units[i] for i, axis in enumerate(axes) if axis in AXES]
    unit = known[-1] if known and all(known) else ""
    if len(set(known)) > 1 and not all(each in METRES for each in known):
        unit = ""
    factors = [
        METRES[given] / METRES[unit] if unit and axis in AXES and given != unit else 1.0
        for axis, given in zip(axes, units, strict=True)
    ]
    shared = [[float(n) * f for n, f in zip(each, factors, strict=True)] for each in lengths]
    return shared, unit
