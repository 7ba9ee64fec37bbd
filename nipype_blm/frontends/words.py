"""How those are told of memory who give it in GiB."""

from decimal import ROUND_UP, Context

from nipype_blm.errors import Words
from nipype_blm.units import GIB


class TraitWords(Words):
    """Words of those who set inputs of an interface."""

    memory_hint = "give GiB, such as 4"

    def memory(self, n_bytes: int) -> str:
        """Return memory in GiB."""
        return f"{n_bytes / GIB:.3g}"

    def budget(self, n_bytes: int) -> str:
        """Return memory in GiB, rounded up, so that it is enough when it is given."""
        return f"{float(Context(4, ROUND_UP).create_decimal(n_bytes / GIB)):.4g}"
