"""Promise 2: after a power cut everything that was acknowledged durable is there, whole; of what was not, the newest durable one.

`pinstripe.testing.powercut` says what a cut may leave.
"""

import pytest

DURABLE = {
    "CreateInline": 1,
    "CreateFrames": 3,
    "CreateFramesExclusively": 5,
    "CreateNamedAtOpen": 3,
    "Overwrite": 4,
    "OverwriteInline": 4,
    "Update": 4,
    "SyncInside": 4,
    "TwoWriters": 4,
    "TwoAppend": 5,
    "Rename": 1,
    "RenameUndurable": 2,
    "Remove": 2,
}
UNDURABLE = ("Undurable", "UndurableThenDurable", "UpdateUndurableThenDurable", "InlineUndurableThenDurable")


@pytest.mark.parametrize(("scenario", "every"), DURABLE.items())
def test_a_durable_change_is_there_after_a_power_cut(sweep, scenario, every):
    swept = sweep(scenario, "cut", every=every)
    assert swept.points >= 4
    assert not swept.failures, swept


@pytest.mark.parametrize("scenario", UNDURABLE)
def test_the_newest_durable_generation_outlives_undurable_ones(sweep, scenario):
    swept = sweep(scenario, "cut", every=7)
    assert swept.points > 20
    assert not swept.failures, swept


@pytest.mark.parametrize(
    "scenario",
    [
        "SegmentsUnsynced",
        "ManifestUnsynced",
        "DirectoryUnsynced",
        "TargetDirectoryUnsynced",
        "InodeUnsynced",
        "NameUnsynced",
        "BaseUnsynced",
    ],
)
def test_each_sync_that_is_left_out_is_found(sweep, scenario):
    assert sweep(scenario, "cut", enough=1).failures
