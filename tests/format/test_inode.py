"""An inode is read back, a foreign file is named as such."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError, DamageError, Error, NamespaceError, UnsupportedError
from pinstripe.format.inode import PREFIX, Inode
from pinstripe.format.layout import Layout
from pinstripe.kernels import crc64

FILE = bytes(range(16))
LAYOUT = b'{"block_bytes":65536,"codec":"auto","pool":null,"stripe_bytes":1048576,"stripe_count":-1}'
EXAMPLES = {
    b"pinstripe 1 000102030405060708090a0b0c0d0e0f generations 0 97855a885b30f27b\n" + LAYOUT + b"\n": Inode(
        FILE, "generations", Layout()
    ),
    b"pinstripe 1 000102030405060708090a0b0c0d0e0f inline 6 58ce733b6dc83f08\n" + LAYOUT + b"\nhello\n": Inode(
        FILE, "inline", Layout(), b"hello\n"
    ),
}


def checked(line: bytes, rest: bytes) -> bytes:
    """An inode whose checksum holds, whatever it says."""
    return line + f"{crc64(rest, crc64(line)):016x}".encode() + rest


@pytest.mark.parametrize(("data", "inode"), EXAMPLES.items())
def test_the_bytes_of_an_inode_are_frozen(data, inode):
    assert inode.encode() == data
    assert Inode.decode(data) == inode


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=300))
def test_an_inline_file_survives_its_encoding(file_id, content):
    inode = Inode(file_id, "inline", Layout(pool="ssd"), content)
    assert Inode.decode(inode.encode()) == inode
    assert inode.encode().startswith(PREFIX)


@pytest.mark.parametrize("data", EXAMPLES)
def test_every_flipped_byte_is_noticed(data, flips):
    for flipped in flips(data):
        with pytest.raises((DamageError, NamespaceError, UnsupportedError)):
            Inode.decode(flipped)


@pytest.mark.parametrize("data", EXAMPLES)
def test_every_cut_and_every_byte_too_many_is_noticed(data):
    for length in range(len(data)):
        with pytest.raises((DamageError, NamespaceError)):
            Inode.decode(data[:length])
    with pytest.raises(DamageError):
        Inode.decode(data + b"\0")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"#!/bin/sh\n", b"pinstripes are nice\n", b"PINSTRIPE 1 "])
def test_a_foreign_file_is_refused_as_foreign(data):
    with pytest.raises(NamespaceError, match="pinstripe cp"):
        Inode.decode(data)


def test_a_newer_format_or_kind_is_unsupported_not_damage():
    with pytest.raises(UnsupportedError, match="format 2"):
        Inode.decode(b"pinstripe 2 whatever comes\n")
    with pytest.raises(UnsupportedError, match="kind tape"):
        Inode.decode(checked(b"pinstripe 1 " + b"00" * 16 + b" tape 0 ", b"\n" + LAYOUT + b"\n"))


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (b"generations 0 ", b"\n" + LAYOUT),
        (b"generations 0 ", b"\n{}\n"),
        (b"generations 1 ", b"\n" + LAYOUT + b"\nx"),
        (b"inline 2 ", b"\n" + LAYOUT + b"\nx"),
        (b"inline 9000000000000000000 ", b"\n" + LAYOUT + b"\nx"),
        (b"inline 01 ", b"\n" + LAYOUT + b"\nx"),
    ],
)
def test_what_contradicts_itself_is_damage_even_where_the_checksum_holds(line, rest):
    with pytest.raises(DamageError):
        Inode.decode(checked(b"pinstripe 1 " + b"00" * 16 + b" " + line, rest))


def test_an_inode_that_cannot_be_is_not_made():
    for arguments in ((b"", "inline"), (FILE, "tape"), (FILE, "generations", b"data")):
        with pytest.raises(ArgumentError):
            Inode(arguments[0], arguments[1], Layout(), *arguments[2:])


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_our_errors(data):
    with pytest.raises(Error):
        Inode.decode(PREFIX + data)
