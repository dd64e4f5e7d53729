"""The conflict table, row by row, and what holds in all of it."""

from __future__ import annotations

import itertools

import pytest

from pinstripe.errors import ArgumentError
from pinstripe.s3.conflicts import (
    CHOICES,
    LOCAL,
    REMOTE,
    VERBS,
    Action,
    LocalState,
    Policy,
    RemoteState,
    conflict_name,
    decide,
)

ALL = ("new", "changed", "deleted")
IMPORT_ONLY, EXPORT_ONLY = Policy(export=()), Policy(import_=())
NOTHING = Policy(import_=(), export=())

ABSENT, NEW, DIRTY, REMOVED = (LocalState(word) for word in ("absent", "new", "dirty", "removed"))
RESIDENT, RELEASED = LocalState("clean"), LocalState("clean", resident=False)
GONE, SAME, CHANGED = (RemoteState(word) for word in REMOTE)
EQUAL, OURS = RemoteState("changed", is_equal=True), RemoteState("changed", is_older_of_ours=True)

ROWS = [
    # a name that is not here
    (ABSENT, GONE, Policy(), "nothing", ""),
    (ABSENT, CHANGED, Policy(), "stub", ""),
    (ABSENT, CHANGED, Policy(import_=("changed", "deleted")), "nothing", ""),
    # a new file
    (NEW, GONE, Policy(), "export", "if-none-match"),
    (NEW, GONE, Policy(export=("changed",)), "nothing", ""),
    (NEW, GONE, IMPORT_ONLY, "nothing", ""),
    (NEW, EQUAL, Policy(), "record", ""),
    (NEW, OURS, Policy(), "export", "if-match"),
    (NEW, CHANGED, Policy(), "conflict", ""),
    # clean, resident | same: nothing; release under watermark
    (RESIDENT, SAME, Policy(), "nothing", ""),
    (RELEASED, SAME, Policy(), "nothing", ""),
    # clean or released | changed: new base, or ignored
    (RESIDENT, CHANGED, Policy(), "renew", ""),
    (RELEASED, CHANGED, Policy(), "renew", ""),
    (RESIDENT, CHANGED, EXPORT_ONLY, "nothing", ""),
    (RELEASED, CHANGED, Policy(import_=("new",)), "nothing", ""),
    (RESIDENT, EQUAL, Policy(), "record", ""),
    # clean or released | deleted
    (RESIDENT, GONE, Policy(), "remove", ""),
    (RELEASED, GONE, Policy(), "remove", ""),
    (RESIDENT, GONE, Policy(import_=("new", "changed")), "detach", ""),
    (RELEASED, GONE, Policy(import_=("new", "changed")), "lose", ""),
    # dirty | same: export with If-Match
    (DIRTY, SAME, Policy(), "export", "if-match"),
    (DIRTY, SAME, Policy(export=("new",)), "nothing", ""),
    (DIRTY, SAME, IMPORT_ONLY, "nothing", ""),
    # dirty | changed: conflict, keeps both
    (DIRTY, CHANGED, Policy(), "conflict", ""),
    (DIRTY, CHANGED, IMPORT_ONLY, "conflict", ""),
    (DIRTY, CHANGED, EXPORT_ONLY, "conflict", ""),
    (DIRTY, CHANGED, Policy(if_conflict="keep-both"), "keep-both", "if-none-match"),
    (DIRTY, CHANGED, Policy(if_conflict="overwrite"), "export", ""),
    (DIRTY, CHANGED, Policy(if_conflict="take-remote"), "take-remote", ""),
    (DIRTY, CHANGED, Policy(if_conflict="skip"), "skip", ""),
    (DIRTY, CHANGED, Policy(export=(), if_conflict="overwrite"), "conflict", ""),
    (DIRTY, CHANGED, Policy(export=(), if_conflict="keep-both"), "conflict", ""),
    (DIRTY, EQUAL, Policy(), "record", ""),
    (DIRTY, OURS, Policy(), "export", "if-match"),
    (DIRTY, OURS, IMPORT_ONLY, "nothing", ""),
    # dirty | deleted: conflict unless it is to be made again
    (DIRTY, GONE, Policy(), "conflict", ""),
    (DIRTY, GONE, IMPORT_ONLY, "conflict", ""),
    (DIRTY, GONE, Policy(if_deleted="recreate"), "export", "if-none-match"),
    (DIRTY, GONE, Policy(if_conflict="overwrite"), "export", "if-none-match"),
    (DIRTY, GONE, Policy(if_conflict="skip"), "skip", ""),
    # deleted | same: the object goes only if that is exported
    (REMOVED, SAME, Policy(), "delete-remote", "if-match"),
    (REMOVED, SAME, Policy(export=("new", "changed")), "nothing", ""),
    (REMOVED, CHANGED, Policy(), "stub", ""),
    (REMOVED, CHANGED, EXPORT_ONLY, "conflict", ""),
    (REMOVED, CHANGED, NOTHING, "nothing", ""),
    (REMOVED, GONE, Policy(), "forget", ""),
    # being read | changed: stripes dropped, ESTALE
    (LocalState("clean", resident=False, reading=True), CHANGED, Policy(), "stale", ""),
    (LocalState("clean", resident=False, reading=True), CHANGED, NOTHING, "stale", ""),
    # noexport
    (LocalState("new", noexport=True), GONE, Policy(), "nothing", ""),
    (LocalState("dirty", noexport=True), SAME, Policy(), "nothing", ""),
    (LocalState("dirty", noexport=True), CHANGED, Policy(if_conflict="overwrite"), "conflict", ""),
    (LocalState("removed", noexport=True), SAME, Policy(), "nothing", ""),
]


@pytest.mark.parametrize(("local", "remote", "policy", "verb", "condition"), ROWS)
def test_a_row(local: LocalState, remote: RemoteState, policy: Policy, verb: str, condition: str) -> None:
    action = decide(local, remote, policy)
    assert (action.verb, action.condition) == (verb, condition)
    assert action.reason


def test_every_verb_has_a_row() -> None:
    assert {row[3] for row in ROWS} == set(VERBS)


@pytest.mark.parametrize(
    ("local", "releasable"),
    [
        (RESIDENT, True),
        (RELEASED, False),
        (LocalState("clean", norelease=True), False),
        (LocalState("clean", archived=False), False),
        (LocalState("clean", noexport=True), True),
    ],
)
def test_what_may_be_released(local: LocalState, releasable: bool) -> None:
    assert decide(local, SAME, Policy()).releasable == releasable


def every() -> list[tuple[LocalState, RemoteState, Policy, Action]]:
    """Every state with every policy, and what is decided."""
    words = [
        tuple(word for word, chosen in zip(ALL, bits, strict=True) if chosen)
        for bits in itertools.product((0, 1), repeat=3)
    ]
    flags = list(itertools.product((False, True), repeat=3))
    locals_ = [
        LocalState(content, resident, reading, noexport) for content in LOCAL for resident, reading, noexport in flags
    ]
    remotes = [GONE, SAME, CHANGED, EQUAL, OURS]
    policies = [
        Policy(import_, export, choice, deleted)
        for import_ in words
        for export in words
        for choice in CHOICES
        for deleted in ("conflict", "recreate")
    ]
    return [
        (local, remote, policy, decide(local, remote, policy))
        for local in locals_
        for remote in remotes
        for policy in policies
    ]


def test_what_holds_for_every_state_and_policy() -> None:
    for local, remote, policy, action in every():
        told = (local, remote, policy, action)
        assert action.verb in VERBS, told
        assert (action.exit_code == 3) == (action.verb == "conflict"), told
        if action.verb in ("renew", "remove", "stub", "stale", "lose", "detach"):
            assert local.content not in ("new", "dirty"), told  # a file that was changed here is never replaced
        if action.verb == "export":
            assert policy.export, told
            assert not local.noexport, told
            assert local.content in ("new", "dirty"), told
            blind = action.condition == ""
            assert not blind or policy.if_conflict == "overwrite", told
            assert (action.condition == "if-none-match") == (remote.state == "absent"), told
        if action.verb == "delete-remote":
            assert remote.state == "same", told
            assert action.condition == "if-match", told
            assert "deleted" in policy.export, told
        if action.verb in ("remove", "renew", "stub"):
            assert policy.import_, told
        if action.verb == "remove":
            assert "deleted" in policy.import_, told
        if action.verb == "take-remote":
            assert policy.if_conflict == "take-remote", told
        if action.releasable:
            assert local.content == "clean", told
            assert remote.state == "same", told


@pytest.mark.parametrize(
    "make",
    [
        lambda: LocalState("lost"),
        lambda: RemoteState("new"),
        lambda: Policy(if_conflict="both"),
        lambda: Policy(if_deleted="overwrite"),
        lambda: Policy(import_=("renamed",)),
    ],
)
def test_words_that_are_none_are_refused(make: object) -> None:
    with pytest.raises(ArgumentError):
        make()  # type: ignore[operator]


def test_the_name_of_what_is_kept_beside() -> None:
    assert conflict_name("a/b.nc", "4711", "node07") == "a/b.nc.conflict-4711-node07"
    assert conflict_name("b", "", "n/../x y") == "b.conflict-none-n-..-x-y"
