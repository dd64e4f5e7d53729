"""The table of hints says what the code does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pinstripe.errors import ArgumentError
from pinstripe.format.layout import Layout
from pinstripe.mpi.hints import ALIASES, INFO_PREFIX, Hints
from pinstripe.options import Options, parse_size

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "hints.md"


def rows() -> dict[str, list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells if row[0] != "keyword argument"}


def test_the_table_has_every_hint_with_its_names_and_default() -> None:
    table = rows()
    options = {field.name: field.default for field in dataclasses.fields(Options)}
    layout = {field.name: field.default for field in dataclasses.fields(Layout)}
    assert list(table) == [*options, *layout]
    for name, (key, variable, default, romio) in table.items():
        assert key == INFO_PREFIX + name
        assert variable == (f"PINSTRIPE_{name.upper()}" if name in options else "")
        wanted = {**options, **layout}[name]
        told = parse_size(default) if name.endswith("_bytes") else default
        assert str(told) == ("none" if wanted is None else str(wanted))
        known = [alias for alias, ours in ALIASES.items() if ours == name]
        assert ([romio] if romio and "not read" not in romio else []) == known


def test_what_is_said_wins_over_the_environment_and_that_over_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hints.make({}, overlap="higher").options.overlap == "higher"
    monkeypatch.setenv("PINSTRIPE_OVERLAP", "error")
    assert Hints.make({}, overlap="higher").options.overlap == "error"
    assert Hints.make({"overlap": "higher"}).options.overlap == "higher"
    made = Hints.make({"stripe_bytes": "2M", "batch_bytes": "1M", "codec": None})
    assert made.layout == {"stripe_bytes": "2M"}
    assert made.options.batch_bytes == 1 << 20


@pytest.mark.parametrize(
    "hints", [{"color": 1}, {"stripe_bytes": "3K"}, {"codec": "zip"}, {"exchange_read": "yes"}, {"batch_bytes": "1"}]
)
def test_what_is_no_hint_is_refused(hints: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        Hints.make(hints)
