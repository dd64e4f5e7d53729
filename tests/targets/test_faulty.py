"""The test doubles do what they say, or tests built on them prove nothing."""

import errno
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from pinstripe.targets.contract import Access
from pinstripe.targets.memory import MemoryTarget
from pinstripe.targets.posix import create_target
from pinstripe.testing.conformance import PlainBatch
from pinstripe.testing.targets import (
    DroppingTarget,
    FailingTarget,
    HangingTarget,
    LimitedTarget,
    ObservedTarget,
    SlowTarget,
    TearingTarget,
    wrap,
)

FILE, TX = b"\xa0" * 16, b"\x44" * 16
NAME, OTHER = f"{TX.hex()}.0.0", f"{TX.hex()}.0.1"
ACCESS = Access(0o644)


@pytest.fixture(params=["memory", "posix"])
def inner(request, tmp_path):
    return MemoryTarget() if request.param == "memory" else create_target(tmp_path / "t", bytes(16))


def content(target, name=NAME):
    with target.open_segment(FILE, name) as segment:
        return segment.read_at(0, segment.size())


USES = {
    "check": lambda target, segment: target.check(),
    "create_segment": lambda target, segment: target.create_segment(FILE, OTHER, ACCESS),
    "open_segment": lambda target, segment: target.open_segment(FILE, NAME),
    "list_segments": lambda target, segment: target.list_segments(FILE),
    "list_files": lambda target, segment: list(target.list_files()),
    "remove_segment": lambda target, segment: target.remove_segment(FILE, OTHER),
    "remove_directory": lambda target, segment: target.remove_directory(FILE),
    "sync_directory": lambda target, segment: target.sync_directory(FILE),
    "write_manifest_copy": lambda target, segment: target.write_manifest_copy(FILE, TX, b"copy", ACCESS),
    "read_manifest_copy": lambda target, segment: target.read_manifest_copy(FILE, TX),
    "space": lambda target, segment: target.space(),
    "write": lambda target, segment: segment.write_at(b"x", 0),
    "read": lambda target, segment: segment.read_at(0, 1),
    "size": lambda target, segment: segment.size(),
    "sync": lambda target, segment: segment.sync(),
    "close": lambda target, segment: segment.close(),
}


@pytest.mark.parametrize(("operation", "use"), USES.items(), ids=USES)
def test_each_operation_can_be_made_to_fail_once(operation, use):
    inner = MemoryTarget()
    inner.write_manifest_copy(FILE, TX, b"", ACCESS)
    segment = inner.create_segment(FILE, NAME, ACCESS)
    target = FailingTarget(inner, operation, error=errno.EDQUOT)
    wrapped = target.wrap_segment(segment, FILE, NAME)
    with pytest.raises(OSError, match="made to fail") as caught:
        use(target, wrapped)
    assert (caught.value.errno, target.failures) == (errno.EDQUOT, 1)
    use(target, wrapped)
    assert target.calls[operation] == 2


def test_the_nth_call_fails_and_others_do_not(inner):
    target = FailingTarget(inner, "write", 3)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(b"1", 0)
        segment.append(PlainBatch(b"2"), 64, 0, 1)
        with pytest.raises(OSError):
            segment.write_at(b"3", 1)
        segment.write_at(b"4", 2)
    assert content(inner)[:3] == b"1\x004"


def test_a_persistent_failure_stays(inner):
    target = FailingTarget(inner, "any", 2, persistent=True)
    target.check()
    for _ in range(3):
        with pytest.raises(OSError):
            target.space()
    with pytest.raises(OSError):
        target.list_segments(FILE)
    assert target.failures == 4


def test_a_failing_close_closes(tmp_path):
    target = FailingTarget(create_target(tmp_path / "t", bytes(16)), "close")
    before = len(os.listdir("/proc/self/fd"))
    segment = target.create_segment(FILE, NAME, ACCESS)
    with pytest.raises(OSError):
        segment.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_kernels_use_the_descriptor_only_of_a_direct_wrapper(tmp_path):
    inner = create_target(tmp_path / "t", bytes(16))
    target = ObservedTarget(inner, direct=True)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        assert segment.fileno() is not None
        segment.append(PlainBatch(b"frame"), 0, 0, 1)
    assert target.calls["write"] == 1
    assert content(inner) == b"frame"


def test_an_operation_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'fsync' is no operation: choose one of check"):
        FailingTarget(MemoryTarget(), "fsync")  # type: ignore[arg-type]


@pytest.mark.parametrize("lie", [False, True])
def test_a_torn_write_leaves_half(inner, lie):
    target = TearingTarget(inner, 2, lie=lie)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(b"whole", 0)
        if lie:
            segment.write_at(b"12345678", 5)
        else:
            with pytest.raises(OSError, match="made to tear"):
                segment.write_at(b"12345678", 5)
    assert content(inner) == b"whole1234"


def test_a_hang_lasts_until_it_is_released():
    target = HangingTarget(MemoryTarget(), "sync")
    done = threading.Event()

    def sync() -> None:
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.sync()
        done.set()

    thread = threading.Thread(target=sync)
    thread.start()
    assert target.entered.wait(10)
    assert not done.wait(0.05)
    target.released.set()
    thread.join(10)
    assert done.is_set()


# --- power cuts -------------------------------------------------------------------------------------------------------


def test_a_power_cut_loses_what_was_not_synced_and_nothing_else(inner):
    target = DroppingTarget(inner)
    segment = target.create_segment(FILE, NAME, ACCESS)
    segment.write_at(b"durable", 0)
    segment.sync()
    target.sync_directory(FILE)
    segment.write_at(b"DU", 0)
    segment.write_at(b"lost", 7)
    lost = target.create_segment(FILE, OTHER, ACCESS)
    lost.write_at(b"synced, but without a name", 0)
    lost.sync()
    assert content(target) == b"DUrablelost"
    target.power_cut()
    assert target.list_segments(FILE) == [NAME]
    assert content(target) == b"durable"
    for use in (lambda: segment.write_at(b"x", 0), lambda: segment.read_at(0, 1), segment.sync):
        with pytest.raises(OSError, match="power was cut"):
            use()
    segment.close()
    lost.close()


def test_a_power_cut_brings_back_what_was_removed_without_a_sync(inner):
    target = DroppingTarget(inner)
    for name in (NAME, OTHER):
        with target.create_segment(FILE, name, ACCESS) as segment:
            segment.write_at(name.encode(), 0)
            segment.sync()
    target.sync_directory(FILE)
    target.remove_segment(FILE, NAME)
    target.sync_directory(FILE)
    target.remove_segment(FILE, OTHER)
    assert target.list_segments(FILE) == []
    target.power_cut()
    assert target.list_segments(FILE) == [OTHER]
    assert content(target, OTHER) == OTHER.encode()


def test_a_power_cut_may_keep_any_of_what_was_not_synced(inner):
    target = DroppingTarget(inner)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(b"aa", 0)
        segment.write_at(b"bb", 2)
        segment.write_at(b"cc", 4)
    answers = iter([True, False, True, True])
    target.power_cut(lambda: next(answers))
    assert content(target) == b"aa\0\0cc"
    target.power_cut()
    assert content(target) == b"aa\0\0cc"


@pytest.mark.parametrize("durable", [False, True])
def test_a_manifest_copy_survives_a_power_cut_only_if_durable(inner, durable):
    target = DroppingTarget(inner)
    target.write_manifest_copy(FILE, TX, b"copy", ACCESS, durable=durable)
    assert target.read_manifest_copy(FILE, TX) == b"copy"
    target.power_cut()
    if durable:
        assert target.read_manifest_copy(FILE, TX) == b"copy"
    else:
        with pytest.raises(FileNotFoundError):
            target.read_manifest_copy(FILE, TX)


# --- small ------------------------------------------------------------------------------------------------------------


def test_a_full_target_takes_what_fits_and_says_so(inner):
    target = LimitedTarget(inner, 100)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(bytes(60), 0)
        segment.write_at(b"x" * 60, 0)  # overwriting takes no room
        with pytest.raises(OSError) as caught:
            segment.write_at(b"y" * 60, 60)
        assert caught.value.errno == errno.ENOSPC
        assert segment.size() == 100
        with pytest.raises(OSError):
            segment.append(PlainBatch(b"z"), 128, 0, 1)
    assert content(inner) == b"x" * 60 + b"y" * 40
    assert target.space().total == 100
    assert target.space().free == 0
    with pytest.raises(OSError):
        target.write_manifest_copy(FILE, TX, b"copy", ACCESS)
    target.remove_segment(FILE, NAME)
    assert target.space().free == 100
    target.write_manifest_copy(FILE, TX, b"copy", ACCESS)


PROGRAM = """
import sys
from pinstripe.targets.contract import Access
from pinstripe.targets.posix import PosixTarget
from pinstripe.testing.targets import LimitedTarget, SlowTarget
path, target_id, kind, value, number = sys.argv[1:]
inner = PosixTarget(path, bytes.fromhex(target_id), bytes(16))
target = LimitedTarget(inner, int(value)) if kind == "limited" else SlowTarget(inner, float(value))
written = 0
with target.create_segment(bytes([160]) * 16, f"{'44' * 16}.{number}.0", Access(0o644)) as segment:
    try:
        while written < 200_000:
            segment.write_at(bytes(10_000), written)
            written += 10_000
    except OSError:
        pass
print(written)
"""


def in_processes(target, kind, value, count):
    arguments = [target.path, target.id.hex(), kind, str(value)]
    workers = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    return [int(worker.communicate()[0]) for worker in workers]


def test_the_limit_holds_over_processes(tmp_path):
    target = create_target(tmp_path / "t", bytes(16))
    written = in_processes(target, "limited", 305_000, 3)
    assert sum(written) <= 305_000
    sizes = []
    for name in target.list_segments(FILE):
        with target.open_segment(FILE, name) as segment:
            sizes.append(segment.size())
    assert sum(sizes) == 305_000


# --- slow -------------------------------------------------------------------------------------------------------------


def test_a_slow_target_keeps_its_rate_for_reads_and_writes(inner):
    target = SlowTarget(inner, 1_000_000)
    begun = time.monotonic()
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(bytes(50_000), 0)
        segment.append(PlainBatch(bytes(50_000)), 50_048, 0, 1)
        assert time.monotonic() - begun >= 0.1
        segment.read_at(0, 50_000)
    target.write_manifest_copy(FILE, TX, bytes(25_000), ACCESS)
    target.read_manifest_copy(FILE, TX)
    assert time.monotonic() - begun >= 0.2


def test_processes_share_the_rate(tmp_path):
    target = create_target(tmp_path / "t", bytes(16))
    begun = time.monotonic()
    assert in_processes(target, "slow", 500_000, 2) == [200_000, 200_000]
    assert time.monotonic() - begun >= 0.8


def test_a_state_of_another_boot_does_not_stop_the_target(tmp_path):
    inner = create_target(tmp_path / "t", bytes(16))
    target = SlowTarget(inner, 1e9)
    with target.create_segment(FILE, NAME, ACCESS) as segment:
        segment.write_at(b"x", 0)
        state = tmp_path / "t" / SlowTarget.STATE
        state.write_bytes(b"0" * 36 + (b"\0" * 6 + b"\x60\x43"))
        begun = time.monotonic()
        segment.write_at(b"x", 0)
    assert time.monotonic() - begun < 5


# --- in a store -------------------------------------------------------------------------------------------------------


class StandInStore(SimpleNamespace):
    """The part of a store that `wrap` touches."""

    def reload(self) -> None:
        self.targets = tuple(self.inner)
        self._by_id = {target.id: target for target in self.targets}

    def target(self, target_id):
        return self._by_id[target_id]


@pytest.fixture
def store(tmp_path):
    store = StandInStore(inner=[create_target(tmp_path / name, bytes(16)) for name in ("a", "b", "c")])
    store.reload()
    return store


def test_wrap_replaces_targets_by_index_or_path_and_leaves_the_others(store):
    made = wrap(
        store,
        {
            0: lambda inner: FailingTarget(inner, "write"),
            store.inner[2].path: {"limit_bytes": 1000, "bytes_per_s": 2e8},
        },
    )
    failing, plain, slow = store.targets
    assert isinstance(failing, FailingTarget)
    assert plain is store.inner[1]
    assert isinstance(slow, SlowTarget)
    assert isinstance(slow.inner, LimitedTarget)
    assert (slow.bytes_per_s, slow.inner.limit_bytes) == (2e8, 1000)
    assert made == {0: failing, store.inner[2].path: slow}
    assert store.target(failing.id) is failing


def test_wrappers_stay_when_the_store_is_reloaded_and_can_be_wrapped_again(store):
    first = wrap(store, {1: ObservedTarget})[1]
    store.reload()
    assert store.targets[1] is first
    second = wrap(store, {1: ObservedTarget})[1]
    store.reload()
    assert store.targets[1] is second
    assert second.inner is first


@pytest.mark.parametrize(
    ("rules", "words"),
    [({"/nowhere": ObservedTarget}, "no target of this store"), ({0: {"limit": 1}}, "limit"), ({0: {}}, "a rule has")],
)
def test_a_rule_that_means_nothing_is_refused(store, rules, words):
    with pytest.raises(KeyError, match=words):
        wrap(store, rules)
