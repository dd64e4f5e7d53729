"""Layouts are refused with a remedy, change by words, and survive JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError, DamageError, UnsupportedError
from pinstripe.format.layout import Layout

LAYOUT_JSON = '{"block_bytes":65536,"codec":"auto","pool":null,"stripe_bytes":1048576,"stripe_count":-1}'


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    stripe_log2 = draw(st.integers(16, 26))
    return Layout(
        stripe_bytes=1 << stripe_log2,
        stripe_count=draw(st.just(-1) | st.integers(1, (1 << 31) - 1)),
        block_bytes=1 << draw(st.integers(14, min(stripe_log2, 20))),
        codec=draw(st.sampled_from(["auto", "lz4", "raw"])),
        pool=draw(st.none() | st.from_regex(r"[A-Za-z0-9_.-]{1,32}", fullmatch=True)),
    )


@given(layouts())
def test_a_layout_survives_json(layout):
    assert Layout.from_json(layout.to_json()) == layout


def test_the_json_of_the_default_layout_is_frozen():
    assert Layout().to_json() == LAYOUT_JSON
    assert Layout.from_json(LAYOUT_JSON) == Layout()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stripe_bytes": 3 << 20}, r"stripe_bytes=3145728: choose a power of two from 64K to 64M"),
        ({"stripe_bytes": 1 << 15}, r"stripe_bytes=32768: choose"),
        ({"stripe_bytes": 1 << 27}, r"stripe_bytes=134217728: choose"),
        ({"stripe_bytes": "1M"}, r"stripe_bytes='1M': choose"),
        ({"stripe_bytes": True}, r"stripe_bytes=True: choose"),
        ({"block_bytes": 1 << 13}, r"block_bytes=8192: choose a power of two from 16K to 1M"),
        (
            {"block_bytes": 1 << 20, "stripe_bytes": 1 << 16},
            r"block_bytes=1M is more than stripe_bytes=64K: choose smaller",
        ),
        ({"stripe_count": 0}, r"stripe_count=0: choose -1 .* or a number from 1"),
        ({"stripe_count": -2}, r"stripe_count=-2: choose"),
        ({"stripe_count": 1 << 31}, r"stripe_count=2147483648: choose"),
        ({"codec": "zstd"}, r"codec='zstd': choose one of auto, lz4, raw"),
        ({"pool": ""}, r"pool='': a pool's name is"),
        ({"pool": "a,b"}, r"pool='a,b': a pool's name is"),
        ({"pool": "ä"}, r"pool='ä': a pool's name is 1 to 32 letters"),
        ({"pool": "a" * 33}, r"pool='a+': a pool's name is"),
        ({"pool": "a\n"}, r"pool='a\\n': a pool's name is"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name_and_with_a_remedy(values, words):
    with pytest.raises(ArgumentError, match=words):
        Layout(**values)


def test_make_changes_a_base_by_words_and_leaves_what_is_none():
    base = Layout(codec="lz4", pool="ssd")
    made = Layout.make(base, stripe_bytes="4M", stripe_count="2", block_bytes="128KiB", codec=None)
    assert made == Layout(4 << 20, 2, 128 << 10, "lz4", "ssd")
    assert Layout.make(base, pool="").pool is None
    assert Layout.make(None, stripe_count="all") == Layout()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stripe_size": 1}, "unknown layout field stripe_size: the fields are stripe_bytes"),
        ({"stripe_bytes": "a lot"}, "stripe_bytes='a lot': 'a lot' is not a size"),
        ({"stripe_count": "many"}, "stripe_count='many'"),
    ],
)
def test_make_refuses_what_is_no_field_or_no_number(changes, words):
    with pytest.raises(ArgumentError, match=words):
        Layout.make(None, **changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        "{}",
        LAYOUT_JSON.replace("1048576", "1048577"),
        LAYOUT_JSON.replace("1048576", "1e6"),
        LAYOUT_JSON.replace('"auto"', "[]"),
        LAYOUT_JSON.replace('"auto"', '"best"'),
        LAYOUT_JSON.replace("null", "7"),
    ],
)
def test_json_that_is_no_layout_is_damage(text):
    with pytest.raises(DamageError):
        Layout.from_json(text)


def test_a_field_of_a_newer_version_is_not_ignored():
    values = json.loads(LAYOUT_JSON) | {"redundancy": "mirror"}
    with pytest.raises(UnsupportedError, match="redundancy"):
        Layout.from_json(json.dumps(values))


@pytest.mark.parametrize(("size", "stripes"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (1 << 60, 1 << 40)])
def test_a_started_stripe_counts_whole(size, stripes):
    assert Layout().stripes(size) == stripes


@pytest.mark.parametrize(("codec", "number"), [("auto", 0), ("lz4", 1), ("raw", 2)])
def test_codec_numbers_are_frozen(codec, number):
    assert Layout(codec=codec).codec_number == number
