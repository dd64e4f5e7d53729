"""What the tests of the format share: the flips of a byte string."""

from collections.abc import Iterator

import pytest


def _flips(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        # A bit at the top, one at the bottom, the bit between the letters' cases, all bits.
        for bits in (0x80, 0x01, 0x20, 0xFF):
            flipped = bytearray(data)
            flipped[position] ^= bits
            yield bytes(flipped)


@pytest.fixture(scope="session")
def flips():
    """Every way to spoil one byte, of those that matter."""
    return _flips
