"""Say which limit of the system (``ulimit``) an error comes from."""

import resource
from typing import NamedTuple


class _Limit(NamedTuple):
    number: int  # of `resource`
    option: str  # of the shell's ulimit
    unit: int  # in which ulimit counts
    what: str
    signs: tuple[str, ...]  # in the text of an error


_LIMITS = (
    _Limit(resource.RLIMIT_NOFILE, "-n", 1, "open files", ("Too many open files",)),
    _Limit(resource.RLIMIT_FSIZE, "-f", 1024, "KiB in a file", ("File too large",)),
    _Limit(
        resource.RLIMIT_NPROC,
        "-u",
        1,
        "processes and threads of a user",
        ("can't start new thread", "Resource temporarily unavailable"),
    ),
    _Limit(
        resource.RLIMIT_AS,
        "-v",
        1024,
        "KiB of addresses in a process",
        ("MemoryError", "Cannot allocate memory", "failed to map segment", "Unable to allocate"),
    ),
)


def explain_limit(text: str) -> str | None:
    """Return which limit an error comes from and how to raise it; None if it is none.

    Parameters
    ----------
    text : str
        Type and message of the error.
    """
    for limit in _LIMITS:
        soft, hard = resource.getrlimit(limit.number)
        if soft == resource.RLIM_INFINITY or not any(sign in text for sign in limit.signs):
            continue
        advice = (
            f"raise it by `ulimit {limit.option} {_show(hard, limit.unit)}` in the shell"
            if hard != soft
            else "only the administrator of this machine, or what a job asks for, can raise it"
        )
        return (
            f"this shell or job is limited to {soft // limit.unit} {limit.what} "
            f"(ulimit {limit.option}); {advice}."
        )
    return None


def _show(value: int, unit: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value // unit)
