"""A segment's header says whose it is; its name is read back, and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import DamageError
from pinstripe.format.segment import (
    SEGMENT_HEADER_BYTES,
    SEGMENT_LIMIT,
    check_header,
    encode_header,
    manifest_copy_name,
    parse_segment_name,
    segment_name,
)

FILE, TX = bytes(range(16)), bytes(range(16, 32))
EXAMPLE = bytes.fromhex(
    "50535345474d310a"
    + "000102030405060708090a0b0c0d0e0f"
    + "101112131415161718191a1b1c1d1e1f"
    + "0300000007000000"
    + "0000000000000000"
    + "6bb35c740a6003f1"
)

numbers = st.integers(0, (1 << 32) - 1)
ids = st.binary(min_size=16, max_size=16)


def test_the_bytes_of_a_header_are_frozen():
    assert encode_header(FILE, TX, 3, 7) == EXAMPLE
    check_header(EXAMPLE, FILE, TX, 3, 7)
    assert (SEGMENT_HEADER_BYTES, SEGMENT_LIMIT) == (64, 256 << 20)


@given(ids, ids, numbers, numbers)
def test_a_header_is_its_own(file_id, tx, stream, n):
    check_header(encode_header(file_id, tx, stream, n) + b"frames", file_id, tx, stream, n)


def test_every_flipped_byte_is_noticed(flips):
    for data in flips(EXAMPLE):
        with pytest.raises(DamageError, match="does not verify"):
            check_header(data, FILE, TX, 3, 7)


def test_every_cut_is_noticed():
    for length in range(SEGMENT_HEADER_BYTES):
        with pytest.raises(DamageError, match="ends within its header") as caught:
            check_header(EXAMPLE[:length], FILE, TX, 3, 7)
        assert caught.value.segment == segment_name(TX, 3, 7)


@pytest.mark.parametrize("other", [(TX, TX, 3, 7), (FILE, FILE, 3, 7), (FILE, TX, 4, 7), (FILE, TX, 3, 8)])
def test_another_segment_in_its_place_is_noticed(other):
    with pytest.raises(DamageError, match="another one") as caught:
        check_header(EXAMPLE, *other)
    assert caught.value.found == f"{FILE.hex()}/{TX.hex()}.3.7"


@given(ids, numbers, numbers)
def test_a_name_is_read_back(tx, stream, n):
    assert parse_segment_name(segment_name(tx, stream, n)) == (tx, stream, n)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "inode",
        TX.hex(),
        f"{TX.hex()}.1",
        f"{TX.hex()}.01.0",
        f"{TX.hex()}.0.0\n",
        f"{TX.hex()}.0.-1",
        f"{TX.hex()}.0.4294967296",
        f"{TX.hex()}.0.٣",
        f"{TX.hex().upper()}.0.0",
        f"{TX.hex()[1:]}.0.0",
        manifest_copy_name(TX),
    ],
)
def test_no_other_name_is_taken_for_a_segment(name):
    assert parse_segment_name(name) is None


def test_the_names_are_frozen():
    assert segment_name(TX, 3, 7) == "101112131415161718191a1b1c1d1e1f.3.7"
    assert manifest_copy_name(TX) == "101112131415161718191a1b1c1d1e1f.manifest"
