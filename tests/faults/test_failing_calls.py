"""Promises 1 and 6: a call that fails gives a clear error or goes elsewhere; what was acknowledged is there, what was refused is not.

"Unknown" is said only where the outcome of a link, of a name or of a directory's sync is unclear.
"""

import pytest

WRITING = (
    "CreateInline",
    "CreateFrames",
    "CreateNamedAtOpen",
    "Overwrite",
    "OverwriteInline",
    "Update",
    "SyncInside",
    "TwoWriters",
)
OTHERS = ("Discard", "Rename", "RenameUndurable", "Remove", "Collect", "ForkedChild")
ON_ONE_TARGET = ("CreateFramesOnOneTarget", "OverwriteOnOneTarget", "UpdateOnOneTarget", "SyncInsideOnOneTarget")


@pytest.mark.parametrize("scenario", WRITING + OTHERS)
def test_a_change_that_fails_with_EIO_is_an_error_or_no_matter(sweep, scenario):
    swept = sweep(scenario, "EIO", every=1 if scenario in ("CreateInline", "Rename", "Remove") else 5)
    assert swept.points >= 4
    assert not swept.failures, swept


@pytest.mark.parametrize("fault", ["ENOSPC", "EDQUOT", "always-EIO", "always-ENOSPC", "always-EDQUOT", "lost-answer"])
@pytest.mark.parametrize("scenario", ["CreateInline", "CreateFrames", "OverwriteInline", "SyncInside"])
def test_a_change_that_fails_in_another_way_is_an_error_or_no_matter(sweep, scenario, fault):
    swept = sweep(scenario, fault, every={"CreateInline": 1, "CreateFrames": 5}.get(scenario, 9))
    assert swept.points >= 4
    assert not swept.failures, swept


@pytest.mark.parametrize("fault", ["EIO", "always-EIO", "always-ENOSPC", "close-EIO"])
@pytest.mark.parametrize("scenario", ON_ONE_TARGET)
def test_a_target_that_fails_does_not_fail_the_job(sweep, scenario, fault):
    swept = sweep(scenario, fault, every=3 if fault != "close-EIO" else 1)
    assert not swept.failures, swept


@pytest.mark.parametrize("fault", ["short", "always-short"])
@pytest.mark.parametrize("scenario", ["CreateInline", "CreateFrames", "Update"])
def test_a_write_that_is_cut_short_is_continued(sweep, scenario, fault):
    swept = sweep(scenario, fault, every=2)
    assert not swept.failures, swept
    assert not any("failed" in outcome for outcome in swept.outcomes)


@pytest.mark.parametrize("fault", ["read-EIO", "look-EIO", "look-EACCES"])
@pytest.mark.parametrize("scenario", ["CreateNamedAtOpen", "Update", "Rename", "Remove", "Collect"])
def test_what_cannot_be_read_is_never_taken_for_gone(sweep, scenario, fault):
    every = 23 if fault == "read-EIO" else 11
    swept = sweep(scenario, fault, every={"Update": 3 * every, "Collect": 2 * every}.get(scenario, every))
    assert not swept.failures, swept


def test_an_error_that_is_swallowed_is_found(sweep):
    assert sweep("ErrorsSwallowed", "EIO", every=2, enough=1).failures
