"""Run a program so that nothing of it stays behind, whatever ends whom. The standard library alone.

`started` starts this file as a program between the caller and the program: the keeper. The keeper
ends when the program ends or when the caller does, even by SIGKILL: it notices by a pipe that
closes. Before it ends, it kills every process that the program left, also those in groups and
sessions of their own (Ray's, TensorFlow Federated's, process pools'). These are found under
Linux; elsewhere the program's own group is killed.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def started(command, **options):
    """Give the Popen of a program's keeper, which returns the program's exit code.

    When the block is left, the program has ended, and so has every process below it.

    Args:
        command: the program and its arguments.
        options: of subprocess.Popen. Its stdin is not one of them.
    """
    keeper = [sys.executable, "-I", "-S", __file__, *map(str, command)]
    piped = {"stdin": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(keeper, **piped, **options) as process:
        try:
            yield process
        finally:
            process.stdin.close()


def exit_on_signals():
    """Make SIGINT, SIGTERM and SIGHUP raise SystemExit, so that `finally` blocks are run.

    What is ignored stays ignored: SIGHUP under nohup, SIGINT in the background of a script.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def below(pid):
    """Return the ids of all processes below one, parents before their children."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in read(children).split()]
    return found[1:]


def read(path):
    """The text of a file under /proc; empty if the process has gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def main():
    exit_on_signals()
    if sys.platform == "linux":  # what loses its parent becomes a child of this process
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    program = None
    try:
        program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
        while program.poll() is None:
            caller_gone, _, _ = select.select([sys.stdin], [], [], 0.2)
            if caller_gone:
                return 128 + signal.SIGKILL
        return program.returncode if program.returncode >= 0 else 128 - program.returncode
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        if sys.platform == "linux":
            kill_below()
        elif program is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def kill_below():
    """Kill what is below this process, until nothing is."""
    with contextlib.suppress(ChildProcessError):  # raised when none is left
        while True:
            for pid in below(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
