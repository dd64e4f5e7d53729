"""A manifest's parts are read back; hostile ones fail fast and take no memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pinstripe.kernels
from pinstripe.errors import ArgumentError, DamageError, Error, UnsupportedError
from pinstripe.format.layout import Layout
from pinstripe.format.manifest import (
    HEADER_BYTES,
    PAGE_BYTES,
    PAGE_ENTRY,
    PAGE_RECORDS,
    RECORD,
    SEGMENT_ENTRY,
    Header,
    Section,
    State,
    Writer,
    check_page,
    check_records,
    decode_tables,
    encode_tables,
)
from pinstripe.kernels import crc64

FILE, TX = bytes(range(16)), bytes(range(16, 32))
WRITER = Writer("n1", 42, 4711, "b-o-o-t", "pid:[1]", "job-1", 4)
EXAMPLE = Header(
    state=State.WHOLE,
    file_id=FILE,
    tx=TX,
    layout=Layout(1 << 16, 2, 1 << 14, "lz4", "ssd"),
    writer=WRITER,
    durable=True,
    number=5,
    base=4,
    size=(1 << 16) * 4096 + 1,
    data_crc=0x0123456789ABCDEF,
    segment_count=1,
    stored_bytes=0x1111,
    committed_ns=0x2222,
    tables_crc=0x3333,
    started_ns=0x4444,
    sections_bytes=40,
)
# Offset and bytes of everything that is not zero.
EXAMPLE_BYTES = {
    0: "50534d414e49310a" + "03000000" + "01000000",
    16: "000102030405060708090a0b0c0d0e0f" + "101112131415161718191a1b1c1d1e1f",
    48: "0500000000000000" + "0400000000000000" + "0100001000000000" + "efcdab8967452301",
    80: "00000100" + "00400000" + "01000000" + "02000000",
    96: "737364",
    128: "01000000" + "02000000" + "0110000000000000",
    144: "1111000000000000" + "2222000000000000" + "3333000000000000" + "4444000000000000",
    176: "28000000" + "0010" + "4000" + "2000" + "2800",
    256: b'{"boot":"b-o-o-t","host":"n1","job":"job-1","pid":42,"pidns":"pid:[1]","ranks":4,"start":4711}'.hex(),
    4088: "46a82cec7fd72d58",
}


def sealed(data: bytes | bytearray) -> bytes:
    """A header whose checksum holds, whatever it says."""
    body = bytes(data[: HEADER_BYTES - 8])
    return body + crc64(body).to_bytes(8, "little")


def patched(offset: int, value: bytes, header: Header = EXAMPLE) -> bytes:
    data = bytearray(header.encode())
    data[offset : offset + len(value)] = value
    return sealed(data)


def tables(segments: int, pages: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    segment = np.zeros(segments, SEGMENT_ENTRY)
    segment["tx"], segment["target"] = rng.integers(0, 256, (2, segments, 16))
    segment["stream"], segment["n"] = np.arange(segments), 1
    segment["length"], segment["flags"] = rng.integers(64, 256 << 20, segments), 1
    segment["live_frames"], segment["live_bytes"] = 1, 64
    page = np.zeros(pages, PAGE_ENTRY)
    first = HEADER_BYTES + segments * 64 + pages * 32
    page["offset"] = first + PAGE_BYTES * np.arange(pages)
    page["checksum"], page["data_crc"] = rng.integers(0, 1 << 63, (2, pages))
    return segment, page


def with_tables(segment: np.ndarray, page: np.ndarray, *sections: Section) -> tuple[Header, bytes]:
    behind = b"".join(section.encode() for section in sections)
    page["offset"][page["offset"] != 0] += len(behind)
    data = encode_tables(segment, page, sections)
    size = len(page) * PAGE_RECORDS * EXAMPLE.layout.stripe_bytes
    header = dataclasses.replace(EXAMPLE, size=size, segment_count=len(segment), sections_bytes=len(behind))
    return dataclasses.replace(header, tables_crc=crc64(data)), data


def test_the_bytes_of_a_header_are_frozen():
    expected = bytearray(HEADER_BYTES)
    for offset, text in EXAMPLE_BYTES.items():
        value = bytes.fromhex(text)
        expected[offset : offset + len(value)] = value
    assert EXAMPLE.encode() == expected
    assert Header.decode(bytes(expected)) == EXAMPLE


def test_the_bytes_of_the_tables_are_frozen():
    segment = np.zeros(1, SEGMENT_ENTRY)
    segment["tx"], segment["target"] = np.frombuffer(TX, "u1"), np.frombuffer(FILE, "u1")
    segment[["stream", "n", "length", "flags", "live_frames", "live_bytes"]] = (3, 7, 0x1000, 1, 5, 0x0F00)
    page = np.array([(0x2000, 0x11, 0x22, 0x33)], PAGE_ENTRY)
    assert encode_tables(segment, page).hex() == (
        "101112131415161718191a1b1c1d1e1f000102030405060708090a0b0c0d0e0f"
        "03000000070000000010000000000000"
        "0100000005000000000f000000000000"
        "0020000000000000110000000000000022000000000000003300000000000000"
    )


def test_the_sizes_on_disk_are_frozen():
    assert (HEADER_BYTES, PAGE_RECORDS, PAGE_BYTES) == (4096, 4096, 163840)
    assert (SEGMENT_ENTRY.itemsize, PAGE_ENTRY.itemsize, RECORD.itemsize) == (64, 32, 40)


def test_the_record_is_the_kernels_record():
    assert RECORD is pinstripe.kernels.RECORD
    record = np.array([(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0)], RECORD)
    assert record.tobytes().hex() == (
        "01000000" + "02000000" + "0300000000000000" + "0400000000000000" + "05000000" + "060007000800" + "09000a000000"
    )
    assert " ".join(RECORD.names or ()) == (
        "segment frame_bytes offset crc64 raw_bytes header64 raw_blocks lz4_blocks shuffled_blocks zero_blocks reserved"
    )


@given(
    st.builds(
        Header,
        state=st.sampled_from(State),
        file_id=st.binary(min_size=16, max_size=16),
        tx=st.binary(min_size=16, max_size=16),
        layout=st.sampled_from([Layout(), Layout(1 << 26, 7, 1 << 20, "raw", "hdd")]),
        writer=st.builds(
            Writer,
            st.text(),
            st.integers(0, 1 << 22),
            st.integers(0, 1 << 63),
            st.text(),
            st.text(),
            st.text(),
            st.just(1),
        ),
        durable=st.booleans(),
        kept=st.booleans(),
        number=st.integers(0, (1 << 64) - 1),
        base=st.integers(0, (1 << 64) - 1),
        size=st.integers(0, 1 << 60),
        data_crc=st.integers(0, (1 << 64) - 1),
        segment_count=st.integers(0, 1 << 24),
        stored_bytes=st.integers(0, (1 << 64) - 1),
        committed_ns=st.integers(0, (1 << 64) - 1),
        tables_crc=st.integers(0, (1 << 64) - 1),
        started_ns=st.integers(0, (1 << 64) - 1),
        sections_bytes=st.integers(0, 1 << 30),
    )
)
def test_a_header_survives_its_encoding(header):
    assert Header.decode(header.encode() + b"tables") == header


@pytest.mark.parametrize("offset", [180, 182, 184, 186])
def test_entries_of_other_sizes_are_unsupported_not_damage(offset):
    with pytest.raises(UnsupportedError, match="use a newer one"):
        Header.decode(patched(offset, b"\xff"))


def test_every_flipped_byte_of_a_header_is_noticed(flips):
    for data in flips(EXAMPLE.encode()):
        with pytest.raises(DamageError):
            Header.decode(data)


def test_a_header_that_ends_early_is_damage():
    for length in (0, 8, HEADER_BYTES - 1):
        with pytest.raises(DamageError):
            Header.decode(EXAMPLE.encode()[:length])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(8, b"\4"), (8, b"\0"), (12, b"\4"), (12, b"\xff\xff\xff\xff"), (88, b"\3")],
    ids=["state 4", "state 0", "flag 4", "all flags", "codec 3"],
)
def test_a_number_of_a_newer_version_is_unsupported_not_damage(offset, value):
    with pytest.raises(UnsupportedError):
        Header.decode(patched(offset, value))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (64, (1 << 63).to_bytes(8, "little")),
        (80, (1 << 17).to_bytes(4, "little")),
        (80, bytes(4)),
        (84, (1 << 17).to_bytes(4, "little")),
        (92, bytes(4)),
        (96, b"\xff"),
        (96, b"a/b"),
        (96, b"a\0b"),
        (128, ((1 << 24) + 1).to_bytes(4, "little")),
        (132, (10**9).to_bytes(4, "little")),
        (136, (10**12).to_bytes(8, "little")),
        (256, b"[]"),
        (256, b"\xff"),
        (256, bytes(1024)),
    ],
)
def test_values_that_cannot_be_are_damage_even_where_the_checksum_holds(offset, value):
    with pytest.raises(DamageError):
        Header.decode(patched(offset, value))


def test_a_thousand_million_pages_fail_fast_and_small():
    size = 10**9 * PAGE_RECORDS * EXAMPLE.layout.stripe_bytes
    data = bytearray(EXAMPLE.encode())
    data[64:72] = size.to_bytes(8, "little")
    data[132:136] = (10**9).to_bytes(4, "little")
    data[136:144] = (10**9 * PAGE_RECORDS).to_bytes(8, "little")
    most = dataclasses.replace(EXAMPLE, size=1 << 56, segment_count=1 << 24, sections_bytes=0)
    tracemalloc.start()
    try:
        with pytest.raises(DamageError, match="more stripes than the format allows"):
            Header.decode(sealed(data))
        assert Header.decode(most.encode()).tables_bytes == (1 << 24) * 64 + (1 << 28) * 32
        with pytest.raises(DamageError, match="ends within its tables"):
            most.check_file_bytes(1 << 20)
        with pytest.raises(DamageError, match="ends within its tables"):
            decode_tables(b"\0" * 1000, most)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_header_beyond_the_limits_is_not_made():
    for changes in ({"size": 1 << 63}, {"segment_count": 1 << 25}):
        with pytest.raises(ArgumentError):
            dataclasses.replace(EXAMPLE, **changes).encode()


def test_a_writer_with_long_names_still_fits():
    writer = Writer("ä" * 5000, (1 << 22) - 1, 1 << 62, "\0" * 500, "\U0001f600" * 500, '"' * 5000, 1 << 30)
    assert Writer.decode(writer.encode()) == writer
    assert writer.host.startswith("äää")
    assert writer.job


def test_a_writer_ignores_what_a_newer_version_adds_and_refuses_what_is_missing():
    text = WRITER.encode().rstrip(b"\0")
    assert Writer.decode(text.replace(b'"boot"', b'"again":1,"boot"')) == WRITER
    for broken in (text.replace(b'"boot"', b'"root"'), text.replace(b":42", b':"42"'), text.replace(b'"n1"', b"1")):
        with pytest.raises(DamageError):
            Writer.decode(broken)


@given(st.integers(0, 50), st.integers(0, 50), st.binary(max_size=8))
def test_tables_survive_their_encoding(segments, pages, behind):
    segment, page = tables(segments, pages)
    header, data = with_tables(segment, page)
    read = decode_tables(data + behind, header)
    assert len(data) == header.tables_bytes
    assert [table.tobytes() for table in read[:2]] == [segment.tobytes(), page.tobytes()]
    assert read[2] == ()
    assert not any(table.flags.writeable for table in read[:2])


def test_the_bytes_of_sections_are_frozen():
    assert Section(5, b"abc").encode().hex() == "05000000" + "03000000" + "6162630000000000"
    assert Section(6, b"", must_understand=True).encode().hex() == "06000080" + "00000000"
    assert Section(7, b"12345678", carry=True).encode().hex() == "07000040" + "08000000" + "3132333435363738"


sections_known_to_nobody = st.lists(
    st.builds(Section, st.integers(0, (1 << 30) - 1), st.binary(max_size=20), carry=st.booleans()), max_size=4
)


@given(st.integers(0, 3), st.integers(0, 3), sections_known_to_nobody)
def test_sections_that_nobody_needs_to_understand_survive_their_encoding(segments, pages, sections):
    header, data = with_tables(*tables(segments, pages), *sections)
    segment, page, read = decode_tables(data, header)
    assert (len(segment), len(page), list(read)) == (segments, pages, sections)


def test_a_section_that_must_be_understood_refuses_the_file_and_names_its_kind():
    header, data = with_tables(*tables(1, 1), Section(4, b"x"), Section(77, b"parity", must_understand=True))
    with pytest.raises(UnsupportedError, match="section of kind 77"):
        decode_tables(data, header)


@pytest.mark.parametrize("length", [1, 8, 9, 1 << 20, 0xFFFFFFFF])
def test_a_section_that_is_longer_than_its_room_is_damage(length):
    header, data = with_tables(*tables(1, 1), Section(4, b""))
    data = data[:-4] + length.to_bytes(4, "little")
    with pytest.raises(DamageError, match="sections end early"):
        decode_tables(data, dataclasses.replace(header, tables_crc=crc64(data)))


def test_sections_that_end_within_a_head_are_damage():
    header, data = with_tables(*tables(1, 0), Section(4, b""))
    data += bytes(4)
    with pytest.raises(DamageError, match="sections end early"):
        decode_tables(data, dataclasses.replace(header, sections_bytes=12, tables_crc=crc64(data)))


def test_every_flipped_byte_of_the_tables_is_noticed(flips):
    header, data = with_tables(*tables(2, 2))
    for flipped in flips(data):
        with pytest.raises(DamageError, match="checksum does not hold"):
            decode_tables(flipped, header)


def test_tables_that_end_early_are_damage():
    header, data = with_tables(*tables(2, 2))
    for length in range(len(data)):
        with pytest.raises(DamageError, match="ends within its tables"):
            decode_tables(data[:length], header)


def test_table_entries_that_cannot_be_are_refused_even_where_the_checksum_holds():
    segment, page = tables(3, 2)
    segment["length"][1] = (256 << 20) + 1
    header, data = with_tables(segment, page)
    with pytest.raises(DamageError, match="segment longer"):
        decode_tables(data, header)
    segment, page = tables(3, 2)
    page["offset"][1] = HEADER_BYTES
    header, data = with_tables(segment, page)
    with pytest.raises(DamageError, match="page that lies within"):
        decode_tables(data, header)
    segment, page = tables(3, 2)
    segment["flags"][2] = 2
    header, data = with_tables(segment, page)
    with pytest.raises(UnsupportedError, match="flags"):
        decode_tables(data, header)


def test_a_page_of_holes_needs_no_place():
    segment, page = tables(1, 3)
    page["offset"] = 0
    header, data = with_tables(segment, page)
    assert not decode_tables(data, header)[1]["offset"].any()


def test_tables_of_another_dtype_are_refused():
    with pytest.raises(ArgumentError):
        encode_tables(np.zeros(1, PAGE_ENTRY), np.zeros(1, PAGE_ENTRY))


def page_of(records: np.ndarray) -> tuple[bytes, np.void]:
    data = records.tobytes()
    entry = np.zeros(1, PAGE_ENTRY)
    entry["offset"], entry["checksum"] = 8192, crc64(data)
    return data, entry[0]


def good_records() -> np.ndarray:
    records = np.zeros(PAGE_RECORDS, RECORD)
    records["segment"][10:20] = 1
    records["frame_bytes"][10:20] = 1024
    records["offset"][10:20] = 64 + 1024 * np.arange(10)
    records["raw_bytes"][10:20] = 1 << 16
    records["header64"][10:20] = 4
    return records


def test_a_page_is_read_back_and_stays_as_it_is():
    records = good_records()
    read = check_page(*page_of(records))
    assert (read == records).all()
    assert not read.flags.writeable


def test_a_page_that_changed_or_ends_early_is_damage():
    data, entry = page_of(good_records())
    for position in range(0, PAGE_BYTES, 997):
        changed = bytearray(data)
        changed[position] ^= 4
        with pytest.raises(DamageError, match="checksum does not hold"):
            check_page(bytes(changed), entry)
    for other in (b"", data[:-1], data + b"\0"):
        with pytest.raises(DamageError, match="ends early") as caught:
            check_page(other, entry)
        assert caught.value.offset == 8192


def test_records_within_their_segments_are_good():
    segment, _ = tables(1, 0)
    segment["length"] = 64 + 1024 * 10
    check_records(good_records(), EXAMPLE, segment)
    check_records(np.zeros(PAGE_RECORDS, RECORD), EXAMPLE, np.zeros(0, SEGMENT_ENTRY))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segment", 2),
        ("segment", (1 << 32) - 1),
        ("offset", 0),
        ("offset", 65),
        ("offset", (1 << 64) - 64),
        ("offset", 64 + 1024 * 9 + 64),
        ("frame_bytes", (1 << 32) - 1),
        ("frame_bytes", 128),
        ("header64", 1),
        ("raw_bytes", 0),
        ("raw_bytes", (1 << 16) + 1),
    ],
)
def test_a_record_that_names_what_cannot_be_is_damage_of_its_stripe(field, value):
    segment, _ = tables(1, 0)
    segment["length"] = 64 + 1024 * 10
    records = good_records()
    records[field][17] = value
    with pytest.raises(DamageError) as caught:
        check_records(records, EXAMPLE, segment, first=8192)
    assert caught.value.stripe == 8192 + 17
    with pytest.raises(DamageError):
        check_records(records, EXAMPLE, segment[:0])


@given(st.binary(max_size=5000))
def test_random_bytes_raise_nothing_but_our_errors(data):
    with pytest.raises(Error):
        Header.decode(data)
    with pytest.raises(Error):
        Header.decode(sealed(b"PSMANI1\n" + data.ljust(HEADER_BYTES, b"\0")))
