"""Conflicts: what is done about a name, from its state here, the object's state there, and the policy. One pure table.

Nothing is ever overwritten blind: an upload carries a condition, a file that was changed here is never replaced by an object,
and where both sides changed nothing is done but told (exit code 3), unless the policy says otherwise.
"""

from __future__ import annotations

import dataclasses

from ..errors import ArgumentError
from ..format.superblock import EVENTS

__all__ = [
    "CHOICES",
    "LOCAL",
    "REMOTE",
    "VERBS",
    "Action",
    "LocalState",
    "Policy",
    "RemoteState",
    "conflict_name",
    "decide",
]

LOCAL = ("absent", "new", "clean", "dirty", "removed")
"""``absent``: no name, and none known of. ``new``: a file that has no base. ``clean``: its content is its base's. ``dirty``: it
was changed since. ``removed``: a name that had a base was removed here."""

REMOTE = ("absent", "same", "changed")
"""Against the base: ``same``: the same version. ``changed``: another one, or one where there was no base. ``absent``: none."""

VERBS = (
    "nothing",
    "skip",
    "stub",
    "renew",
    "remove",
    "detach",
    "lose",
    "record",
    "export",
    "keep-both",
    "take-remote",
    "delete-remote",
    "forget",
    "conflict",
    "stale",
)
"""What may be done:

=============  ==========================================================================================================
nothing        both sides are as they should be, or the policy leaves them
skip           as nothing, because ``--if-exists skip`` says so
stub           make a stub of the object
renew          the clean file becomes a stub of the object as it is now
remove         remove the name here
detach         keep the file, whose bytes are here, and mark it noexport: its object is gone
lose           mark it lost: its bytes were only in the object, which is gone
record         the object is the file's bytes: note it as the base
export         upload, under the condition
keep-both      upload beside the object, as `conflict_name`, if there is none; then the name here stays as it is
take-remote    move the file to ``lost+found``, make a stub of the object
delete-remote  delete the object, under the condition
forget         drop what is known of a name that is gone on both sides
conflict       do nothing, tell it, exit code 3; the file is marked
stale          drop the resident stripes of the old version; who reads gets ESTALE
=============  ==========================================================================================================
"""

CHOICES = ("fail", "skip", "overwrite", "keep-both", "take-remote")
"""What is done where both sides changed."""

_MATCH, _NEW = "if-match", "if-none-match"


@dataclasses.dataclass(frozen=True, slots=True)
class LocalState:
    """A name as it is here.

    Attributes
    ----------
    content : str
        One of `LOCAL`.
    resident : bool
        Whether all bytes are here; False for a stub and a partly loaded one. Of a clean file only.
    reading : bool
        Whether stripes of the base are being fetched.
    noexport, norelease : bool
        The file's flags.
    archived : bool
        Whether it is proven that the base is the content (by checksum, or every byte under one). Of a clean file only.
    """

    content: str
    resident: bool = True
    reading: bool = False
    noexport: bool = False
    norelease: bool = False
    archived: bool = True

    def __post_init__(self) -> None:
        if self.content not in LOCAL:
            raise ArgumentError(f"content={self.content!r}: choose one of {', '.join(LOCAL)}")


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteState:
    """An object as it is there.

    Attributes
    ----------
    state : str
        One of `REMOTE`.
    is_equal : bool
        Whether length and checksum of the whole are those of the file here, though it is another version than the base.
    is_older_of_ours : bool
        Whether its `Origin` says that it is an older generation of this very file.
    """

    state: str
    is_equal: bool = False
    is_older_of_ours: bool = False

    def __post_init__(self) -> None:
        if self.state not in REMOTE:
            raise ArgumentError(f"state={self.state!r}: choose one of {', '.join(REMOTE)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What a link, or a command, wants.

    Attributes
    ----------
    import_, export : tuple of str
        Of `EVENTS`: what is carried over, in each direction.
    if_conflict : str
        One of `CHOICES`.
    if_deleted : str
        What is done about a changed file whose object is gone: ``conflict`` or ``recreate``.
    """

    import_: tuple[str, ...] = EVENTS
    export: tuple[str, ...] = EVENTS
    if_conflict: str = "fail"
    if_deleted: str = "conflict"

    def __post_init__(self) -> None:
        if self.if_conflict not in CHOICES:
            raise ArgumentError(f"if_conflict={self.if_conflict!r}: choose one of {', '.join(CHOICES)}")
        if self.if_deleted not in ("conflict", "recreate"):
            raise ArgumentError(f"if_deleted={self.if_deleted!r}: choose conflict or recreate")
        for words in (self.import_, self.export):
            if not set(words) <= set(EVENTS):
                raise ArgumentError(f"{words!r}: choose of {', '.join(EVENTS)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What is to be done.

    Attributes
    ----------
    verb : str
        One of `VERBS`.
    reason : str
        Why, for people.
    condition : str
        With ``export`` and ``delete-remote``: ``if-match`` (the version that was seen: the base's ETag, or that of the present
        object where the base is another), ``if-none-match`` (there is no object), or "" (whatever is there). Where the
        endpoint knows no conditions, look at the object right before, and say so once.
    releasable : bool
        Whether the bytes here may be freed.
    """

    verb: str
    reason: str
    condition: str = ""
    releasable: bool = False

    @property
    def exit_code(self) -> int:
        """3 for a conflict, else 0."""
        return 3 if self.verb == "conflict" else 0


def decide(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    """Say what is done about one name.

    An import alone has a policy without exports, and the other way round. A conflict is told whatever the policy carries over,
    once both sides changed.
    """
    return _ROWS[local.content](local, remote, policy)


def conflict_name(name: str, job: str, host: str) -> str:
    """Return the name, or key, under which ``keep-both`` uploads; job and host lose what has no place in a key."""
    clean = ("".join(c if c.isalnum() or c in "._-" else "-" for c in text) or "none" for text in (job, host))
    return f"{name}.conflict-{'-'.join(clean)}"


def _absent(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    if remote.state == "absent":
        return Action("nothing", "neither here nor there")
    if "new" in policy.import_:
        return Action("stub", "a new object")
    return Action("nothing", "new objects are not imported")


def _new(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    if remote.state == "absent":
        return _upload(local, policy, "new", _NEW, "a new file")
    if remote.is_equal:
        return Action("record", "the object is the same, byte for byte")
    if remote.is_older_of_ours:
        return _upload(local, policy, "changed", _MATCH, "the object is an older generation of this file")
    return _both_changed(local, policy, "there is an object already, and the file is not known to be one of it")


def _clean(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    if remote.state == "same":
        releasable = local.resident and local.archived and not local.norelease
        return Action("nothing", "the same on both sides", releasable=releasable)
    if remote.state == "changed":
        if remote.is_equal:
            return Action("record", "the object was written again, byte for byte the same")
        if local.reading:
            return Action("stale", "the object changed while the file was being read")
        if "changed" in policy.import_:
            return Action("renew", "the object changed")
        return Action("nothing", "changes of objects are not imported")
    if "deleted" in policy.import_:
        return Action("remove", "the object was deleted")
    if local.resident:
        return Action("detach", "the object was deleted; the file is whole here")
    return Action("lose", "the object was deleted, and bytes of the file were only there")


def _dirty(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    if remote.state == "same":
        return _upload(local, policy, "changed", _MATCH, "the file was changed")
    if remote.state == "changed":
        if remote.is_equal:
            return Action("record", "the object is the same, byte for byte")
        if remote.is_older_of_ours:
            return _upload(local, policy, "changed", _MATCH, "the object is an older generation of this file")
        return _both_changed(local, policy, "the file and the object were both changed")
    if policy.if_deleted == "recreate" or policy.if_conflict == "overwrite":
        return _upload(local, policy, "changed", _NEW, "the object was deleted: it is made again")
    if policy.if_conflict == "skip":
        return Action("skip", "the file was changed, its object deleted")
    return Action("conflict", "the file was changed, its object deleted")


def _removed(local: LocalState, remote: RemoteState, policy: Policy) -> Action:
    if remote.state == "absent":
        return Action("forget", "gone on both sides")
    if remote.state == "same":
        if "deleted" in policy.export and not local.noexport:
            return Action("delete-remote", "the file was removed", _MATCH)
        return Action("nothing", "removals of files are not exported")
    if "changed" in policy.import_:
        return Action("stub", "the file was removed, but its object changed since: it comes back")
    if "deleted" in policy.export and not local.noexport:
        return Action("conflict", "the file was removed, but its object changed since: it is not deleted")
    return Action("nothing", "removals of files are not exported")


_ROWS = {"absent": _absent, "new": _new, "clean": _clean, "dirty": _dirty, "removed": _removed}


def _upload(local: LocalState, policy: Policy, event: str, condition: str, reason: str) -> Action:
    if local.noexport:
        return Action("nothing", "marked noexport")
    if event not in policy.export:
        return Action("nothing", f"{event} files are not exported")
    return Action("export", reason, condition)


def _both_changed(local: LocalState, policy: Policy, reason: str) -> Action:
    if policy.if_conflict == "skip":
        return Action("skip", reason)
    if policy.if_conflict == "take-remote":
        return Action("take-remote", f"{reason}: the object wins")
    if policy.if_conflict in ("overwrite", "keep-both") and policy.export and not local.noexport:
        if policy.if_conflict == "overwrite":
            return Action("export", f"{reason}: the file wins")
        return Action("keep-both", f"{reason}: the file goes beside the object", _NEW)
    return Action("conflict", reason)
