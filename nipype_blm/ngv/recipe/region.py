"""The region that a circuit fills, as the checks of its atlas have measured it."""

import json
from pathlib import Path
from typing import NamedTuple, Self

from nipype_blm.errors import InputError
from nipype_blm.io.files import write_if_changed


class Region(NamedTuple):
    """What an atlas says of a region."""

    volume: float  # um^3
    expected: float  # number of astrocytes: the integral of their density

    @property
    def n_astrocytes(self) -> int:
        """How many ArchNGV places."""
        return round(self.expected)

    def write(self, path: Path) -> None:
        """Write it down, for those who compare the circuit with it."""
        write_if_changed(path, json.dumps(self._asdict()).encode())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read what was written; None if no cells were asked for yet.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({error}); `nipype-blm ngv run` writes it anew."
            ) from error
