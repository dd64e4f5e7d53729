"""Encoded frames reach every kind of target as the same bytes."""

import numpy as np
import pytest

from pinstripe.kernels import Encoder
from pinstripe.targets.contract import Access
from pinstripe.targets.memory import MemoryTarget
from pinstripe.targets.posix import create_target
from pinstripe.targets.wrapper import WrapperTarget
from pinstripe.testing.targets import SlowTarget

FILE, TX = b"\xa0" * 16, b"\x44" * 16
STRIPE = 1 << 16


@pytest.fixture
def batch():
    """Four frames: random (raw blocks in the caller's memory), text, zeros, a short one."""
    data = np.zeros(4 * STRIPE, "u1")
    data[:STRIPE] = np.random.default_rng(7).integers(0, 256, STRIPE, "u1")
    data[STRIPE : 2 * STRIPE] = np.arange(STRIPE) // 100
    lengths = np.array([STRIPE, STRIPE, STRIPE, 1000], "i8")
    encoder = Encoder(FILE, TX, 1 << 14)
    encoded = encoder.encode(data, np.arange(4, dtype="i8") * STRIPE, lengths, np.arange(4, dtype="u8"))
    yield encoded
    encoded.release()


@pytest.mark.parametrize("start", [64, 4096, 4160])
@pytest.mark.parametrize(("first", "last"), [(0, 4), (1, 3), (2, 2)])
def test_frames_are_appended_as_the_same_bytes_with_and_without_a_descriptor(tmp_path, batch, start, first, last):
    posix = create_target(tmp_path / "t", bytes(16))
    kinds = {"posix": posix, "wrapper": WrapperTarget(posix), "slow": SlowTarget(posix, 1e12), "memory": MemoryTarget()}
    found = {}
    for stream, (kind, target) in enumerate(kinds.items()):
        with target.create_segment(FILE, f"{TX.hex()}.{stream}.0", Access(0o600)) as segment:
            segment.append(batch, start, first, last)
            found[kind] = segment.read_at(0, 1 << 24)
    expected = batch.tobytes(start, first, last)
    assert len(expected) == batch.placed_bytes(first, last, start)
    for kind, data in found.items():
        assert data == (bytes(start) + expected if expected else b""), kind
