"""What TensorStore reads, here or in a cloud."""

from pathlib import Path
from typing import Any

from nipype_blm.blockmap.addresses import DRIVERS, N5
from nipype_blm.blockmap.lengths import share_unit
from nipype_blm.blockmap.openers.opened import Opened, as_end, name_plain, need_path
from nipype_blm.blockmap.sources import Source
from nipype_blm.errors import InputError


def open_tensorstore(source: Source, name: str) -> Opened:
    """Open a store by its driver, one of `DRIVERS`."""
    import tensorstore as ts

    scheme, address = _find_address(source)
    if address.startswith("file://"):
        need_path(Path(address.removeprefix("file://")), name)
    spec: dict[str, Any] = {"driver": DRIVERS[scheme], "kvstore": f"{address.rstrip('/')}/"}
    if scheme == "precomputed":
        spec["scale_index"] = source.level
    elif source.level:
        raise InputError(
            f"{name} was asked for level {source.level} of {source.path}; expected the address of "
            "the level itself, without level."
        )
    try:
        store = ts.open({**spec, **source.options}, open=True, read=True).result()
    except (ValueError, OSError) as error:
        # The first sentence; the rest repeats the whole specification.
        reason = as_end(str(error).partition(" [")[0])
        raise InputError(f"{name}: {source.path} cannot be opened: {reason}") from error
    domain = store.domain
    axes = "".join((label or "?")[0].lower() for label in domain.labels)
    if "?" in axes:
        # N5 counts from the axis that changes fastest.
        plain = name_plain(store.ndim)
        axes = plain[::-1] if scheme == "n5" else plain
    quantities = store.dimension_units or [None] * store.ndim
    units = [each.base_unit if each else "" for each in quantities]
    sizes = [float(each.multiplier) if each else 1.0 for each in quantities]
    (sizes,), unit = share_unit(axes or "?" * store.ndim, units, sizes)
    ends = zip(domain.inclusive_min, domain.exclusive_max, strict=True)
    bounds = [(int(low), int(high)) for low, high in ends]
    chunks = [int(n or 1) for n in store.chunk_layout.read_chunk.shape or ()] or None
    return Opened(store, axes, sizes, unit, bounds=bounds, chunks=chunks)


def _find_address(source: Source) -> tuple[str, str]:
    """Return the scheme of a store, one of `DRIVERS`, and its address."""
    scheme, has_scheme, address = source.path.partition("://")
    if not has_scheme:
        path = Path(source.path).absolute()
        is_n5 = N5.search(source.path) or (path / "attributes.json").is_file()
        scheme, address = "n5" if is_n5 else "precomputed", str(path)
    if source.dataset:
        address = f"{address.rstrip('/')}/{source.dataset.strip('/')}"
    return scheme, address if "://" in address else f"file://{Path(address).absolute()}"
