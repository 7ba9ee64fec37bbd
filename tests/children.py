"""Processes that tests start."""

import signal


def hear_signals() -> None:
    """Undo, as preexec_fn, what a child inherits of a shell that makes the tests ignore signals.

    nohup ignores SIGHUP; a shell without job control ignores SIGINT in the background, and SIGQUIT.
    The tests themselves stay so, as does the package; the children of tests of signals must hear.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
