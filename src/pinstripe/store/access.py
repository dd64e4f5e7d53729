"""Who may use a file's data: the directories that hold it follow the file's mode, owner, group and ACL."""

from __future__ import annotations

import os
import struct

from ..targets.contract import Access

__all__ = ["ACL", "directory_acl", "get_acl", "masked_acl", "set_access"]

ACL = "system.posix_acl_access"


def set_access(directory: str, access: Access, acl: bytes | None) -> None:
    """Give ``files/aa/ID`` or ``TARGET/aa/ID`` the access and the ACL of its file; no error where there is none."""
    try:
        seen = os.lstat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return  # inline, empty, or nothing on this target
    mode = access.directory_mode
    uid = -1 if access.uid is None or access.uid == seen.st_uid else access.uid
    gid = -1 if access.gid is None or access.gid == seen.st_gid else access.gid
    if (uid, gid) != (-1, -1):
        try:
            os.chown(directory, uid, gid, follow_symlinks=False)
        except PermissionError:
            mode &= ~0o070  # a group that cannot be set gets nothing
    if not _put_acl(directory, acl):
        mode &= ~0o070  # the mode's group bits are the ACL's mask: alone they would give the group more than it had
    os.chmod(directory, mode)


# --- ACLs: acl(5); the attribute's bytes are those of linux/posix_acl_xattr.h -----------------------------------------

_ACL_HEAD = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


def get_acl(path: str) -> bytes | None:
    """Return the ACL of a name, if it has one beyond its mode."""
    try:
        return os.getxattr(path, ACL, follow_symlinks=False)
    except OSError:
        return None


def _put_acl(directory: str, acl: bytes | None) -> bool:
    """Give a directory the ACL that goes with a file's; False = it cannot have one."""
    try:
        if acl is not None:
            os.setxattr(directory, ACL, directory_acl(acl), follow_symlinks=False)
        elif get_acl(directory) is not None:
            os.removexattr(directory, ACL, follow_symlinks=False)
    except OSError:
        return False
    return True


def directory_acl(acl: bytes) -> bytes:
    """Turn a file's ACL into its directory's: r gives rx, w gives wx, the owner always has wx."""
    out = bytearray(acl[: _ACL_HEAD.size])
    for tag, bits, who in _ACL_ENTRY.iter_unpack(acl[_ACL_HEAD.size :]):
        wider = (0o5 if bits & 0o4 else 0) | (0o3 if bits & 0o2 else 0)
        out += _ACL_ENTRY.pack(tag, wider | (0o3 if tag == _USER_OBJ else 0), who)
    return bytes(out)


def masked_acl(acl: bytes, mode: int) -> bytes:
    """Change an ACL as chmod does: the mode's group bits are its mask."""
    entries = list(_ACL_ENTRY.iter_unpack(acl[_ACL_HEAD.size :]))
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    given = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return acl[: _ACL_HEAD.size] + b"".join(
        _ACL_ENTRY.pack(tag, given.get(tag, bits), who) for tag, bits, who in entries
    )
