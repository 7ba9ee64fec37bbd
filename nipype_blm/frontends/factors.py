"""Read random factors in every layout."""

from typing import Any

from nipype_blm.errors import show


def normalise_factors(value: Any) -> list[dict[str, Any]]:
    """Return random factors as a list of mappings with `name`, `factor` and `design`.

    Accepts BLMM's ``[{f1: {name, factor, design}}, ...]``, ``{f1: {name, factor, design},
    ...}``, ``[{name, factor, design}, ...]`` and one factor by itself.
    """
    if isinstance(value, dict):
        is_one = not any(isinstance(body, dict) for body in value.values())
        value = [value] if is_one else [{key: body} for key, body in value.items()]
    if not isinstance(value, list | tuple) or not any(value):
        raise ValueError(
            f"{show(value)} was given; expected a list of random factors, each with name, factor "
            "and design; use blm for a model without any"
        )
    return [_normalise_factor(item, number) for number, item in enumerate(value, 1)]


def _normalise_factor(item: Any, number: int) -> dict[str, Any]:
    name = f"f{number}"
    if isinstance(item, dict) and len(item) == 1:
        [(key, body)] = item.items()
        if isinstance(body, dict):
            name, item = str(key), body
    if not isinstance(item, dict):
        raise ValueError(
            f"factor {number} is {show(item)}; expected a mapping with name, factor and design"
        )
    # "f1:" with its fields not indented below it has the value None.
    return {"name": name} | {str(k): v for k, v in item.items() if v is not None}
