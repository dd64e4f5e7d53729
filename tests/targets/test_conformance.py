"""Every kind of target keeps the contract."""

import dataclasses
import secrets

import pytest

from pinstripe.targets.memory import MemoryTarget
from pinstripe.targets.posix import create_target
from pinstripe.targets.wrapper import WrapperTarget
from pinstripe.testing.conformance import TargetConformance
from pinstripe.testing.targets import DroppingTarget, LimitedTarget, ObservedTarget, SlowTarget

STORE = bytes(16)
ROOM = 64 << 20


class TestPosixTarget(TargetConformance):
    @pytest.fixture
    def target(self, tmp_path):
        return create_target(tmp_path / "target", STORE)


class TestMemoryTarget(TargetConformance):
    @pytest.fixture
    def target(self):
        return MemoryTarget()


class TestWrapperTarget(TargetConformance):
    @pytest.fixture(params=[False, True], ids=["bytes", "direct"])
    def target(self, tmp_path, request):
        return WrapperTarget(create_target(tmp_path / "target", STORE, pool="ssd", scope="node"), direct=request.param)

    def test_it_is_taken_for_the_target_within(self, target):
        inner = target.inner
        assert (target.id, target.path, target.scope, target.pool) == (inner.id, inner.path, "node", "ssd")

    def test_the_descriptor_is_given_only_when_told_so(self, target):
        self.written(target, b"data")
        with target.open_segment(bytes.fromhex("a0" + "11" * 15), f"{'44' * 16}.0.0") as segment:
            assert (segment.fileno() is not None) == target.direct


class TestObservedTarget(TargetConformance):
    @pytest.fixture
    def target(self):
        return ObservedTarget(MemoryTarget())


class TestLimitedTarget(TargetConformance):
    @pytest.fixture
    def target(self, tmp_path):
        return LimitedTarget(create_target(tmp_path / "target", STORE), ROOM)


class TestLimitedMemoryTarget(TargetConformance):
    @pytest.fixture
    def target(self):
        return LimitedTarget(MemoryTarget(), ROOM)


class TestSlowTarget(TargetConformance):
    @pytest.fixture
    def target(self, tmp_path):
        return SlowTarget(create_target(tmp_path / "target", STORE), 1 << 30)


class TestDroppingTarget(TargetConformance):
    @pytest.fixture
    def target(self):
        return DroppingTarget(MemoryTarget())


def test_a_kind_of_target_that_breaks_the_contract_is_found_out():
    class ForgetfulTarget(MemoryTarget):
        def list_segments(self, file_id):
            return super().list_segments(file_id)[:1]

    suite = TargetConformance()
    with pytest.raises(AssertionError):
        suite.test_listing_names_what_is_there_in_order(ForgetfulTarget())
    suite.test_listing_names_what_is_there_in_order(MemoryTarget())


def test_every_memory_target_is_another():
    assert MemoryTarget().id != MemoryTarget().id
    chosen = secrets.token_bytes(16)
    assert MemoryTarget(chosen, pool="scratch", total_bytes=100).id == chosen


def test_memory_space_counts_what_is_stored():
    target = MemoryTarget(total_bytes=100)
    TargetConformance().written(target, bytes(60))
    assert dataclasses.astuple(target.space()) == (100, 40)
    TargetConformance().written(target, bytes(60), name="another")
    assert target.space().free == 0
