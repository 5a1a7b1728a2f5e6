"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

# Run by a fresh interpreter that then becomes the child, so that nothing runs between fork and
# exec in a process that has threads (what `preexec_fn` would do). 1 is PR_SET_PDEATHSIG; the
# check after it covers a parent that died before the call.
_DIE_WITH_PARENT: Final = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started " + sys.argv[2] + " is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """The command such that, on Linux, the kernel kills it when this process dies.

    Elsewhere the command as it is: killed with SIGKILL, its parent leaves it behind. The first
    word must be the path of a program.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
