"""A command that is told to end does so, cleans up in peace, and hands over the signal."""

import signal
import subprocess
import sys
import textwrap

import pytest
from children import hear_signals

PREAMBLE = """
import os, signal, time
from nipype_blm.signals import interruptible

def tell(number):
    os.kill(os.getpid(), number)
"""
LIMIT_S = 60


def run(program, start=hear_signals):
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        preexec_fn=start,
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_a_keyboard_interrupt(name):
    result = run(f"""
    with interruptible() as signals:
        try:
            tell(signal.{name})
        except KeyboardInterrupt:
            print(signals == [signal.{name}])
    """)
    assert result.stdout == "True\n", result.stderr


def test_an_interrupt_that_is_dropped_comes_again():
    result = run("""
    with interruptible() as signals:
        try:
            try:
                tell(signal.SIGTERM)
            except:
                pass
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            print(signals == [signal.SIGTERM])
    """)
    assert result.stdout == "True\n", result.stderr


def test_cleaning_up_is_not_interrupted():
    # Longer than an interrupt that was dropped takes to come again.
    result = run("""
    with interruptible():
        try:
            try:
                tell(signal.SIGTERM)
            finally:
                try:
                    raise OSError
                except OSError:
                    time.sleep(0.6)
                print("clean")
        except KeyboardInterrupt:
            print("done")
    time.sleep(0.6)
    print("end")
    """)
    assert result.stdout.split() == ["clean", "done", "end"], result.stderr


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(name):
    """SIGHUP below nohup, SIGINT in the background of a script: ignored by whoever starts us."""

    def ignore():
        hear_signals()
        signal.signal(getattr(signal, name), signal.SIG_IGN)

    result = run(
        f"""
    with interruptible() as signals:
        tell(signal.{name})
    print(signals, signal.getsignal(signal.{name}) is signal.SIG_IGN)
    """,
        start=ignore,
    )
    assert result.stdout == "[] True\n", result.stderr


def test_handlers_are_given_back():
    result = run("""
    before = [signal.getsignal(n) for n in range(1, 20)]
    with interruptible():
        pass
    print(before == [signal.getsignal(n) for n in range(1, 20)])
    """)
    assert result.stdout == "True\n", result.stderr
