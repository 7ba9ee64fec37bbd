"""A fault: a process with this folder on its PYTHONPATH uses much memory when it gets SIGUSR1."""

import signal

_BYTES = 3 * 10**9
_used = []

# Written, so that it is not only reserved.
signal.signal(signal.SIGUSR1, lambda *_: _used.append(b"x" * _BYTES))
