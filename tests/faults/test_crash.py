"""Promise 1: a process that dies at any call leaves the old content or the new, and nothing that a collector cannot free."""

import pytest

WRITING = (
    "CreateInline",
    "CreateExclusively",
    "CreateFrames",
    "CreateFramesExclusively",
    "CreateNamedAtOpen",
    "Overwrite",
    "OverwriteInline",
    "Update",
    "SyncInside",
    "TwoWriters",
    "TwoAppend",
    "Undurable",
)
EVERY = {
    "Update": 2,
    "SyncInside": 2,
    "TwoWriters": 2,
    "TwoAppend": 3,
    "Undurable": 3,
    "CreateFramesExclusively": 3,
    "Discard": 2,
}
OTHERS = ("Discard", "Rename", "RenameUndurable", "Remove", "Collect")


@pytest.mark.parametrize("scenario", WRITING + OTHERS)
def test_a_process_killed_at_any_call_leaves_the_old_or_the_new(sweep, scenario):
    swept = sweep(scenario, "kill", every=EVERY.get(scenario, 1))
    assert swept.points >= 5
    assert not swept.failures, swept


@pytest.mark.parametrize("scenario", WRITING)
def test_a_process_killed_within_a_write_leaves_the_old_or_the_new(sweep, scenario):
    swept = sweep(scenario, "tear", every=3)
    assert not swept.failures, swept


def test_a_forked_child_that_exits_harms_nothing_wherever_parent_or_child_die(sweep):
    swept = sweep("ForkedChild", "kill", every=4)
    assert swept.points > 25
    assert not swept.failures, swept


def test_a_commit_linked_before_it_is_written_is_found(sweep):
    assert sweep("LinkedBeforeWritten", "kill", enough=1).failures
