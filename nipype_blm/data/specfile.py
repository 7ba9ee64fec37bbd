"""Write and read the model, the contrasts and the study that the stages share."""

import json
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from nipype_blm.core.factors import RandomFactor
from nipype_blm.core.linalg import DesignFactor
from nipype_blm.core.lmm.estimates import MixedOptions
from nipype_blm.data.kinds import pack_space, unpack_space
from nipype_blm.data.spec import NUMERICS, ContrastSpec, ModelSpec
from nipype_blm.errors import InputError
from nipype_blm.io.arrayfile import ArrayFile, fingerprint, pack_arrays
from nipype_blm.model.contrasts import Contrast
from nipype_blm.model.study import Coding, Excluded, Study

_SPECIAL = ("space", "allowed", "design", "factors", "options")


def pack_model(spec: ModelSpec) -> tuple[str, bytes]:
    """Return the fingerprint of a model, and the contents of its file."""
    of_space, space_options = pack_space(spec.space)
    arrays = {f"space/{name}": array for name, array in of_space.items()}
    arrays |= spec.design._asdict() | {"allowed": spec.allowed}
    for i, factor in enumerate(spec.factors):
        arrays |= {f"{i}/level": factor.level, f"{i}/Z": factor.Z}
    options: dict[str, Any] = {
        field.name: getattr(spec, field.name)
        for field in fields(spec)
        if field.name not in _SPECIAL
    }
    options["space"] = space_options
    options["factors"] = [[factor.name, factor.correlated] for factor in spec.factors]
    options["options"] = None if spec.options is None else spec.options._asdict()
    body = b"".join(pack_arrays("", arrays, {"numerics": NUMERICS, "options": options}))
    stamp = fingerprint(body)
    return stamp, b"".join(pack_arrays(stamp, arrays, options))


@lru_cache(maxsize=1)
def _read_model(path: Path, size: int, mtime_ns: int) -> tuple[str, ModelSpec]:
    file = ArrayFile(path)
    design = DesignFactor(*(file.read(name) for name in DesignFactor._fields))
    options: dict[str, Any] = dict(file.meta)
    options |= {field: tuple(options[field]) for field in ("names", "ends")}
    for field in ("effect_names", "level_names"):
        options[field] = tuple(tuple(names) for names in options[field])
    options["factors"] = tuple(
        RandomFactor(name, file.read(f"{i}/level"), file.read(f"{i}/Z"), correlated)
        for i, (name, correlated) in enumerate(options["factors"])
    )
    if options["options"] is not None:
        options["options"] = MixedOptions(**options["options"])
    of_space = {
        name.removeprefix("space/"): file.read(name)
        for name in file.names
        if name.startswith("space/")
    }
    options["space"] = unpack_space(of_space, options["space"])
    return file.stamp, ModelSpec(**options, design=design, allowed=file.read("allowed"))


def read_model(path: Path | str) -> tuple[str, ModelSpec]:
    """Return the fingerprint of a model, and the model."""
    path = Path(path)
    status = path.stat()
    return _read_model(path, status.st_size, status.st_mtime_ns)


def pack_contrasts(spec: ContrastSpec) -> tuple[str, bytes]:
    """Return the fingerprint of contrasts, and the contents of their file."""
    data = {
        "contrasts": [
            {"name": c.name, "matrix": c.matrix.tolist(), "is_f": c.is_f} for c in spec.contrasts
        ],
        "two_sided": spec.two_sided,
        "minlog": spec.minlog,
    }
    return _pack_json(data)


def pack_study(study: Study) -> tuple[str, bytes]:
    """Return the fingerprint of a study, and the contents of its file."""
    data: dict[str, Any] = {"formula": study.formula, "columns": dict(study.columns)}
    data["codings"] = [each._asdict() for each in study.codings]
    data["excluded"] = [each._asdict() for each in study.excluded]
    return _pack_json(data)


def read_study(path: Path | str) -> tuple[str, Study]:
    """Return the fingerprint of a study, and the study.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    stamp, data = _read_json(path)
    codings = [Coding(**each) for each in data["codings"]]
    excluded = [Excluded(**each) for each in data["excluded"]]
    return stamp, Study(data["formula"], data["columns"], codings, excluded)


def _pack_json(data: dict[str, Any]) -> tuple[str, bytes]:
    stamp = fingerprint(_dump(data))
    return stamp, _dump({"fingerprint": stamp} | data)


def _dump(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=1).encode()


def read_contrasts(path: Path | str) -> tuple[str, ContrastSpec]:
    """Return the fingerprint of the contrasts, and the contrasts.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    stamp, data = _read_json(path)
    contrasts = tuple(Contrast(**contrast) for contrast in data["contrasts"])
    return stamp, ContrastSpec(contrasts, data["two_sided"], data["minlog"])


def _read_json(path: Path | str) -> tuple[str, dict[str, Any]]:
    try:
        data = json.loads(Path(path).read_bytes())
        stamp: str = data.pop("fingerprint")
        if stamp != fingerprint(_dump(data)):
            raise ValueError("another fingerprint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged; run again, which makes it anew.") from error
    return stamp, data
