"""Run as a script: become a program that dies with the process that started it.

    python -I -S _server_child.py PARENT_PID PROGRAM ARGUMENT...

A program of its own, because the request has to be made in the child between fork and exec, and running
Python there (`preexec_fn`) can deadlock when the parent has threads. Linux keeps the request across exec, and
delivers it when the *thread* that forked ends. Where there is no such request (not Linux), an orphan keeps
serving, and because it holds the lock of its data directory, the next Convive process uses it rather than
start a second one.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGKILL, because it cannot be delayed: the store is made for it, and a successor waits for the lock.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
        # The parent may have died before the request was made.
        if os.getppid() != parent:
            sys.exit("the process that wanted this server is gone")
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
