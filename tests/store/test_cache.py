"""The cache of partial stripes against a plain copy of the file."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.store.cache import StripeCache

STRIPE, STRIPES = 64, 5
places_and_lengths = st.tuples(st.integers(0, STRIPES * STRIPE - 1), st.integers(1, 2 * STRIPE))


def cut(offset: int, length: int) -> list[tuple[int, int, int]]:
    """Pieces that end with their stripe: stripe, offset in it, length."""
    pieces = []
    end = min(offset + length, STRIPES * STRIPE)
    while offset < end:
        stripe, within = divmod(offset, STRIPE)
        take = min(end - offset, STRIPE - within)
        pieces.append((stripe, within, take))
        offset += take
    return pieces


@given(st.lists(places_and_lengths, max_size=12), st.lists(places_and_lengths, max_size=12), st.data())
def test_what_was_written_lies_over_what_is_read(writes, reads, data):
    cache = StripeCache(STRIPE)
    known = np.zeros(STRIPES * STRIPE, bool)
    content = np.full(STRIPES * STRIPE, 7, np.uint8)
    for number, (offset, length) in enumerate(writes):
        value = number + 10
        for stripe, within, take in cut(offset, length):
            new = np.full(take, value, np.uint8)
            sequence = data.draw(st.integers(0, 1)) if number == 0 else number // 3
            one = (np.array([within]), new, np.array([0]), np.array([take]))
            cache.write(stripe, *one, sequence)
            begin = stripe * STRIPE + within
            known[begin : begin + take], content[begin : begin + take] = True, value
    want = np.where(known, content, 3).astype(np.uint8)

    pieces = [piece for offset, length in reads for piece in cut(offset, length)]
    lengths = np.array([take for _, _, take in pieces], np.int64)
    places = np.cumsum(lengths) - lengths
    out = np.full(int(lengths.sum()), 3, np.uint8)
    cache.overlay_pieces(
        np.array([stripe for stripe, _, _ in pieces], np.uint64),
        np.array([within for _, within, _ in pieces], np.int64),
        lengths,
        out,
        places,
    )
    for (stripe, within, take), place in zip(pieces, places.tolist(), strict=True):
        begin = stripe * STRIPE + within
        assert out[place : place + take].tolist() == want[begin : begin + take].tolist()

    for offset, length in reads:
        run = np.full(min(length, STRIPES * STRIPE - offset), 3, np.uint8)
        cache.overlay(offset, run)
        assert run.tolist() == want[offset : offset + len(run)].tolist()
