"""The public names of pinstripe.mpi, and what each says first."""

from __future__ import annotations

import inspect

import pytest
from mpi4py import MPI

import pinstripe.mpi


def test_all_is_sorted_and_complete() -> None:
    names = pinstripe.mpi.__all__
    assert names == sorted(names)
    assert all(hasattr(pinstripe.mpi, name) for name in names)


@pytest.mark.parametrize(
    "cls", [pinstripe.mpi.File, pinstripe.mpi.OpenFile, pinstripe.mpi.MPITeam], ids=lambda c: c.__name__
)
def test_every_call_says_whether_it_is_collective(cls: type) -> None:
    for name, member in vars(cls).items():
        if name.startswith("_"):
            continue
        doc = inspect.getdoc(member.fget if isinstance(member, property) else getattr(cls, name))
        assert doc, name
        assert doc.startswith(("Collective. ", "Independent. ")), f"{name}: {doc}"


def test_what_mpi_file_has_and_we_have_takes_the_same_arguments() -> None:
    ours = {name: member for name, member in vars(pinstripe.mpi.File).items() if name[0].isupper()}
    assert {
        "Open",
        "Close",
        "Delete",
        "Get_size",
        "Set_size",
        "Write_at_all",
        "Read_at_all",
        "Set_view",
        "Sync",
    } <= set(ours)
    for name in ours:
        theirs = getattr(MPI.File, name)
        parameters = list(inspect.signature(getattr(pinstripe.mpi.File, name)).parameters)
        text = (theirs.__doc__ or "").split("(", 1)[1].split(")", 1)[0]
        wanted = [part.split(":")[0].split("=")[0].strip() for part in _split(text)]
        wanted = [word for word in wanted if word.isidentifier() and word != "cls"]
        assert [word for word in parameters if word != "cls"] == wanted, name


def _split(text: str) -> list[str]:
    """Split a signature at the commas that are not in brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
