"""Acting as another user."""

import os
import sys
import traceback
from collections.abc import Callable

__all__ = ["as_user"]


def as_user(uid: int, act: Callable[[], object], groups: tuple[int, ...] = ()) -> None:
    """Do something as another user, in a process of its own; what fails there, fails here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups(list(groups))
            os.setgid(uid)
            os.setuid(uid)
            os.umask(0o022)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
