"""Bytes to values and back: layout, superblock, inode, segment, manifest. No I/O. The bytes: docs/reference/format.md.

Whoever wants one of these names its module: ``from pinstripe.format.manifest import Header``.
"""
