"""What a process may not do by its own limits: large files, many descriptors. Clear errors, nothing published, nothing left."""

from __future__ import annotations

import errno
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import pinstripe
from pinstripe.errors import TargetError

MIB = 1 << 20


def in_child(act: Callable[[], None]) -> None:
    """Do something in a process of its own, whose limits are its own; what fails there, fails here."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture
def store(tmp_path: Path) -> pinstripe.Store:
    store = pinstripe.create(tmp_path / "store", [tmp_path / "a", tmp_path / "b"])
    with pinstripe.open(tmp_path / "store/file", "wb") as file:
        file.write(b"old" * 100_000)
    return store


def test_a_file_larger_than_the_process_may_write_is_refused_and_the_old_stays(store: pinstripe.Store) -> None:
    path = f"{store.root}/file"

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, MIB // 2))
        with pytest.raises(TargetError) as raised, pinstripe.open(path, "wb", buffering=0) as file:
            file.write(os.urandom(3 * MIB))
        assert raised.value.errno == errno.EFBIG
        assert "no target can take the data" in str(raised.value)

    in_child(act)
    with pinstripe.open(path, "rb") as file:
        assert file.read() == b"old" * 100_000


def test_a_segment_that_may_not_grow_is_followed_by_another(store: pinstripe.Store) -> None:
    """The limit is each file's own, so what is written in small pieces still fits, spread over the targets."""
    path = f"{store.root}/new"
    data = os.urandom(3 * MIB)

    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB + MIB // 2, 2 * MIB + MIB // 2))
        with pinstripe.open(path, "wb", buffering=0) as file:
            file.write(data)

    in_child(act)
    with pinstripe.open(path, "rb") as file:
        assert file.read() == data


@pytest.mark.parametrize("spare", range(1, 14))
def test_too_few_descriptors_are_a_clear_error_and_nothing_is_published(store: pinstripe.Store, spare: int) -> None:
    path, data = f"{store.root}/file", os.urandom(3 * MIB)
    failed = Path(store.root).parent / "failed"

    def act() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))
        said = ""
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            with pinstripe.open(path, "wb", buffering=0) as file:
                file.write(data)
        except OSError as error:
            said = str(error)
            code = error.errno
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if said:
            assert code == errno.EMFILE, said
            assert store.root in said or "no target can take the data" in said
            failed.touch()

    in_child(act)
    assert failed.exists() or spare > 2
    with pinstripe.open(path, "rb") as file:
        assert file.read() == (b"old" * 100_000 if failed.exists() else data)
