"""kill -9 at a chosen step of a process's work with files, the same on every machine."""

import os
import signal
import sys


def kill_at(out, n_steps):
    """This process dies right before the `n_steps`-th file opened, renamed or removed in `out`."""
    left = iter(range(n_steps - 1))

    def kill(event, args):
        ours = event in {"open", "os.rename", "os.remove"} and str(args[0]).startswith(str(out))
        if ours and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
