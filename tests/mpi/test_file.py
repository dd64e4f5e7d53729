"""File is MPI.File: the same calls on a plain file through mpi4py are the oracle for every byte and position."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.errors import ArgumentError
from pinstripe.mpi import File, MPIError

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


# --- opening ---


def test_a_new_files_name_is_made_at_open_and_is_empty(ranks: Any, store: Path) -> None:
    file = File.Open(ranks.comm, str(store / "f"), CREATE)
    assert file
    assert content(store / "f") == b""
    file.Write_at_all(ranks.rank, b"x")
    ranks.comm.Barrier()
    assert content(store / "f") == b""
    ranks.comm.Barrier()
    file.Close()
    assert not file
    assert content(store / "f") == b"x" * ranks.size


def test_an_existing_file_starts_from_its_last_generation(ranks: Any, store: Path) -> None:
    for value in range(3):
        file = File.Open(ranks.comm, store / "f", CREATE)
        assert file.Get_size() == value * ranks.size
        file.Write_at_all(value * ranks.size + ranks.rank, bytes([value]))
        file.Close()
    assert content(store / "f") == b"".join(bytes([value]) * ranks.size for value in range(3))


@pytest.mark.parametrize(
    ("amode", "error_class"),
    [
        (0, MPI.ERR_AMODE),
        (MPI.MODE_CREATE, MPI.ERR_AMODE),
        (MPI.MODE_RDONLY | MPI.MODE_WRONLY, MPI.ERR_AMODE),
        (MPI.MODE_RDONLY | MPI.MODE_CREATE, MPI.ERR_AMODE),
        (MPI.MODE_RDONLY | MPI.MODE_EXCL, MPI.ERR_AMODE),
        (MPI.MODE_RDWR | MPI.MODE_SEQUENTIAL, MPI.ERR_AMODE),
        (MPI.MODE_RDONLY, MPI.ERR_NO_SUCH_FILE),
        (MPI.MODE_RDWR, MPI.ERR_NO_SUCH_FILE),
        (MPI.MODE_WRONLY, MPI.ERR_NO_SUCH_FILE),
    ],
)
def test_modes_that_cannot_be_are_refused(ranks: Any, store: Path, amode: int, error_class: int) -> None:
    with pytest.raises(MPI.Exception) as caught:
        File.Open(ranks.comm, store / "none", amode)
    assert caught.value.Get_error_class() == error_class
    assert not pinstripe.exists(store / "none")


def test_excl_refuses_a_file_that_is_there(ranks: Any, store: Path) -> None:
    File.Open(ranks.comm, store / "f", CREATE | MPI.MODE_EXCL).Close()
    with pytest.raises(FileExistsError) as caught:
        File.Open(ranks.comm, store / "f", CREATE | MPI.MODE_EXCL)
    assert caught.value.Get_error_class() == MPI.ERR_FILE_EXISTS


def test_delete_on_close_leaves_nothing(ranks: Any, store: Path) -> None:
    file = File.Open(ranks.comm, store / "f", CREATE | MPI.MODE_DELETE_ON_CLOSE)
    file.Write_at_all(ranks.rank * 100_000, np.ones(100_000, np.uint8))
    file.Sync()
    assert pinstripe.exists(store / "f")
    ranks.comm.Barrier()
    file.Close()
    assert not pinstripe.exists(store / "f")


def test_append_begins_at_the_end(ranks: Any, store: Path) -> None:
    for _ in range(2):
        file = File.Open(ranks.comm, store / "f", CREATE | MPI.MODE_APPEND)
        file.Seek(ranks.rank, MPI.SEEK_CUR)
        file.Write_all(bytes([ranks.rank]))
        file.Close()
    assert content(store / "f") == bytes(range(ranks.size)) * 2


def test_delete_removes_a_name(ranks: Any, store: Path) -> None:
    File.Open(ranks.comm, store / "f", CREATE).Close()
    if ranks.rank == 0:
        File.Delete(str(store / "f"))
        with pytest.raises(FileNotFoundError) as caught:
            File.Delete(store / "f")
        assert caught.value.Get_error_class() == MPI.ERR_NO_SUCH_FILE


def test_what_it_is(ranks: Any, store: Path) -> None:
    null = File()
    assert not null
    assert null == MPI.FILE_NULL
    assert null == File()
    with pytest.raises(MPI.Exception) as caught:
        null.Get_size()
    assert caught.value.Get_error_class() == MPI.ERR_FILE
    half = ranks.comm.Split(ranks.rank % 2, -ranks.rank)
    with File.Open(half, store / f"f{ranks.rank % 2}", CREATE) as file:
        assert file != MPI.FILE_NULL
        assert file != null
        assert file == file
        with pytest.raises(ValueError, match="pickle"):
            pickle.dumps(file)
        assert file.amode == file.Get_amode() == CREATE
        group, of_comm = file.Get_group(), half.Get_group()
        assert MPI.Group.Compare(group, of_comm) == MPI.IDENT
        group.Free()
        of_comm.Free()
        assert (file.group_size, file.group_rank) == (half.size, half.rank)
        assert file.size == 0
        assert file.Get_type_extent(MPI.DOUBLE) == 8
        File.Write_at_all(file, half.rank, b"z")  # unbound
    half.Free()


def test_it_closes_unbound_too(ranks: Any, store: Path) -> None:
    file = File.Open(ranks.comm, store / "f", CREATE)
    File.Close(file)
    assert not file
    file.free()


def test_leaving_with_by_an_exception_publishes_nothing(ranks: Any, store: Path) -> None:
    with pytest.raises(KeyError), File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        file.Write_at_all(ranks.rank, b"x")
        if ranks.rank == 0:
            raise KeyError("mine")
        file.Sync()
    assert content(store / "f") == b""


def test_sizes_are_set_and_preallocated(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Preallocate(1000)
        assert file.Get_size() == 1000
        file.Preallocate(10)
        assert file.Get_size() == 1000
        file.Set_size(77)
        assert file.Get_size() == 77
        file.Write_at(90 + ranks.rank, b"q")
        file.Sync()
        assert file.Get_size() == 90 + ranks.size
    assert content(store / "f") == bytes(90) + b"q" * ranks.size


# --- hints ---


def test_hints_come_back_as_used(ranks: Any, store: Path) -> None:
    info = MPI.Info.Create(
        {"striping_unit": "262144", "cb_buffer_size": "1048576", "romio_cb_read": "disable", "foreign": "1"}
    )
    info.Set("pinstripe_codec", "raw")
    info.Set("pinstripe_durability", "none")
    with File.Open(ranks.comm, store / "f", CREATE, info) as file:
        used = dict(file.info.items())
        assert used["pinstripe_stripe_bytes"] == used["striping_unit"] == "262144"
        assert used["pinstripe_batch_bytes"] == used["cb_buffer_size"] == "1048576"
        assert used["pinstripe_exchange_read"] == "never"
        assert used["romio_cb_read"] == "disable"
        assert used["romio_cb_write"] == "automatic"
        assert used["pinstripe_codec"] == "raw"
        assert used["pinstripe_durability"] == "none"
        assert used["pinstripe_overlap"] == "higher"
        assert "foreign" not in used
        file.info = MPI.Info.Create({"romio_cb_read": "enable", "pinstripe_overlap": "error", "striping_unit": "65536"})
        used = dict(file.info.items())
        assert (used["romio_cb_read"], used["pinstripe_overlap"]) == ("enable", "error")
        assert used["striping_unit"] == "262144"  # fixed when the file was made
    info.Free()


def test_a_wrong_hint_of_ours_is_refused_and_a_foreign_one_ignored(ranks: Any, store: Path) -> None:
    for key, value in (("pinstripe_codec", "zip"), ("pinstripe_colour", "red"), ("pinstripe_stripe_bytes", "3")):
        with pytest.raises(ArgumentError, match=key.removeprefix("pinstripe_")):
            File.Open(ranks.comm, store / "f", CREATE, MPI.Info.Create({key: value}))
    with File.Open(
        ranks.comm, store / "f", CREATE, MPI.Info.Create({"striping_unit": "3", "striping_factor": "x"})
    ) as file:
        assert dict(file.info.items())["striping_unit"] == "65536"


def test_the_environment_gives_hints_below_what_is_said(
    ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PINSTRIPE_EXCHANGE_READ", "never")
    monkeypatch.setenv("PINSTRIPE_OVERLAP", "error")
    monkeypatch.setenv("PINSTRIPE_BATCH_BYTES", "2M")
    with File.Open(ranks.comm, store / "f", CREATE, MPI.Info.Create({"cb_buffer_size": "1048576"})) as file:
        used = dict(file.info.items())
    assert used["romio_cb_read"] == "disable"
    assert used["pinstripe_overlap"] == "error"
    assert used["cb_buffer_size"] == "1048576"


# --- views ---


def test_a_view_that_cannot_be_is_refused_on_all(ranks: Any, store: Path) -> None:
    falling = MPI.BYTE.Create_hindexed([1, 1], [5, 2]).Commit()
    overlapping = MPI.BYTE.Create_hindexed([4, 4], [0, 2]).Commit()
    negative = MPI.BYTE.Create_hindexed([1, 1], [-5, 2]).Commit()
    cases: list[tuple[tuple[Any, ...], int]] = [
        ((0, MPI.BYTE, falling), MPI.ERR_TYPE),
        ((0, MPI.BYTE, overlapping), MPI.ERR_TYPE),
        ((0, MPI.BYTE, negative), MPI.ERR_TYPE),
        ((0, MPI.DOUBLE, MPI.INT), MPI.ERR_TYPE),
        ((0, MPI.DATATYPE_NULL, None), MPI.ERR_TYPE),
        ((-1, MPI.BYTE, None), MPI.ERR_ARG),
        ((0, MPI.BYTE, None, "external32"), MPI.ERR_UNSUPPORTED_DATAREP),
    ]
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_view(8, MPI.INT)
        for arguments, error_class in cases:
            with pytest.raises(MPI.Exception) as caught:
                file.Set_view(*(arguments if ranks.rank == 0 else (0, MPI.BYTE)))
            assert caught.value.Get_error_class() == error_class
            assert caught.value.rank == 0
        assert file.Get_view() == (8, MPI.INT, MPI.INT, "native")
        file.Write_at_all(ranks.rank, np.array([ranks.rank], np.int32))
    assert content(store / "f") == bytes(8) + np.arange(ranks.size, dtype=np.int32).tobytes()
    with File.Open(ranks.comm, store / "f", MPI.MODE_RDONLY) as file:
        file.Set_view(8, MPI.BYTE, overlapping)  # reading may overlap
        out = bytearray(8)
        file.Read_all(out)
        assert out == content(store / "f")[8:12] + content(store / "f")[10:14] if ranks.size > 1 else True
    for datatype in (falling, overlapping, negative):
        datatype.Free()


def test_the_view_outlives_the_callers_datatypes(ranks: Any, store: Path) -> None:
    etype = MPI.DOUBLE.Create_contiguous(2).Commit()
    filetype = etype.Create_vector(3, 1, ranks.size).Commit()
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_view(16 * ranks.rank, etype, filetype)
        etype.Free()
        filetype.Free()
        file.Write_all(np.full(6, ranks.rank, np.float64))
        assert file.Get_position() == 3
        displacement, told_etype, told_filetype, representation = file.Get_view()
        assert (displacement, representation) == (16 * ranks.rank, "native")
        assert (told_etype.Get_size(), told_filetype.Get_size()) == (16, 48)
        told_etype.Free()
        told_filetype.Free()
        assert file.Get_byte_offset(1) == 16 * ranks.rank + 16 * ranks.size
    assert np.frombuffer(content(store / "f")).tolist() == [
        rank for _ in range(3) for rank in range(ranks.size) for _ in "ab"
    ]


def test_positions_count_etypes_and_seek_as_mpi_says(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_size(1000)
        file.Set_view(200, MPI.DOUBLE)
        file.Seek(0, MPI.SEEK_END)
        assert file.Get_position() == 100
        file.Seek(-10, MPI.SEEK_CUR)
        assert file.Get_position() == 90
        file.Seek(3)
        assert file.Get_position() == 3
        assert file.Get_byte_offset(3) == 224
        for offset, whence in ((-1, MPI.SEEK_SET), (-4, MPI.SEEK_CUR), (-101, MPI.SEEK_END), (0, 99)):
            with pytest.raises(MPI.Exception):
                file.Seek(offset, whence)
        assert file.Get_position() == 3


# --- buffers and status ---


def test_a_status_tells_what_was_moved(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        status = MPI.Status()
        file.Write_at_all(ranks.rank * 80, np.zeros(10), status)
        assert status.Get_count(MPI.DOUBLE) == 10
        assert status.Get_elements(MPI.BYTE) == 80
        assert not status.Is_cancelled()
        file.Sync()
        out = np.zeros(20)
        file.Read_at_all(ranks.size * 80 - 24, out, status)
        assert status.Get_count(MPI.DOUBLE) == 3
        file.Read_at(ranks.size * 80, out, status)
        assert status.Get_count(MPI.BYTE) == 0
        file.Write_at(0, b"" if ranks.rank else b"abc", status)
        assert status.Get_count(MPI.BYTE) == (0 if ranks.rank else 3)


BUFFERS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda a: a,
    "array and type": lambda a: [a, MPI.INT],
    "array and type code": lambda a: [a, "i"],
    "array and count": lambda a: [a, 6],
    "count and type": lambda a: (a, 6, MPI.INT),
    "displacement": lambda a: [np.concatenate(([99, 98], a)).astype(np.int32), (6, 2), MPI.INT],
    "four parts": lambda a: [np.concatenate(([99], a, [97])).astype(np.int32), 6, 1, MPI.INT],
    "fewer": lambda a: [np.concatenate((a, a)), 6, MPI.INT],
    "bytes": lambda a: a.tobytes(),
    "memoryview": lambda a: memoryview(a),
    "mpi buffer": lambda a: MPI.buffer.frombuffer(a),
    "as bytes": lambda a: [a, 24, MPI.BYTE],
    "fortran": lambda a: np.asfortranarray(a.reshape(3, 2).T).T.reshape(3, 2).copy(order="C"),
}


@pytest.mark.parametrize("form", BUFFERS)
def test_every_form_of_buffer_is_read_as_mpi4py_reads_it(ranks: Any, store: Path, form: str) -> None:
    values = np.arange(6, dtype=np.int32) + 10 * ranks.rank
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Write_at_all(24 * ranks.rank, BUFFERS[form](values))
    want = np.concatenate([np.arange(6, dtype=np.int32) + 10 * rank for rank in range(ranks.size)])
    assert content(store / "f") == want.tobytes()


def test_buffers_that_cannot_be_are_refused(ranks: Any, store: Path) -> None:
    array = np.zeros((4, 4))
    cases: list[Any] = [
        array[:, :2],
        [array, 17, MPI.DOUBLE],
        [array, -1, MPI.DOUBLE],
        [array, 3, 5, 7, 9],
        [array, (1, 2, 3)],
    ]
    cases += [
        [array, (2, 15), MPI.DOUBLE],
        object(),
        [array.view(np.uint8).reshape(-1)[:9], MPI.DOUBLE],
        [array, 1, "nonsense"],
    ]
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for case in cases:
            with pytest.raises((ArgumentError, MPI.Exception, KeyError)):
                file.Write_at_all(0, case)
        with pytest.raises(ArgumentError, match="writable"):
            file.Read_at_all(0, b"constant")
        file.Set_view(0, MPI.DOUBLE)
        with pytest.raises(MPIError, match="whole elementary"):
            file.Write_at_all(0, b"1234567")
        with pytest.raises(ArgumentError):
            file.Write_at_all(-1, array)
        with pytest.raises(ArgumentError):
            file.Read_at(-1, array)
    assert content(store / "f") == b""


def test_memory_with_holes_is_packed_and_spread(ranks: Any, store: Path) -> None:
    column = MPI.INT.Create_vector(5, 2, 4).Commit()
    absolute = MPI.INT.Create_hindexed([2, 1], [0, 12]).Commit()
    memory = np.arange(40, dtype=np.int32).reshape(2, 5, 4)
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Write_at_all(80 * ranks.rank, [memory, 1, column])
        file.Write_at_all(80 * ranks.rank + 40, [memory[1], 1, column])
        out = np.full((5, 4), -1, np.int32)
        file.Read_at_all(80 * ranks.rank + 40, [out, 1, column])
        assert (out[:, :2] == memory[1, :, :2]).all()
        assert (out[:, 2:] == -1).all()
        short = np.full((5, 4), -1, np.int32)
        file.Read_at_all(80 * ranks.size - 12, [short, 1, column])  # three numbers, then the end
        assert short[0, :2].tolist() == memory[1, 3, 1:2].tolist() + memory[1, 4, :1].tolist()
        assert short[1, :2].tolist() == [memory[1, 4, 1], -1]
        values = np.arange(4, dtype=np.int32)
        displacements = [MPI.Get_address(values), MPI.Get_address(values) + 12]
        addressed = MPI.INT.Create_hindexed([2, 1], displacements).Commit()
        file.Write_at_all(12 * ranks.rank, [MPI.BOTTOM, 1, addressed])
        addressed.Free()
    first = np.frombuffer(content(store / "f"), np.int32)[: 3 * ranks.size]
    assert first.tolist() == [0, 1, 3] * ranks.size
    column.Free()
    absolute.Free()


# --- the oracle ---


class Types:
    """File types through which rank r sees the r-th of every `size` blocks; all ranks together see every byte once."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def contiguous(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        return base.Create_contiguous(block).Create_resized(0, unit * block * self.size), self.rank * block * unit

    def vector(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        inner = base.Create_vector(count, block, block * self.size)
        return inner.Create_resized(0, unit * block * count * self.size), self.rank * block * unit

    def hvector(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        inner = base.Create_hvector(count, block, block * self.size * unit)
        return inner.Create_resized(0, unit * block * count * self.size), self.rank * block * unit

    def subarray(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        shape, part = [count, block * self.size], [count, block]
        return base.Create_subarray(shape, part, [0, self.rank * block]), 0

    def fortran(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        shape, part = [block * self.size, count], [block, count]
        return base.Create_subarray(shape, part, [self.rank * block, 0], MPI.ORDER_F), 0

    def indexed(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        inner = base.Create_indexed([block] * count, [(k * self.size + self.rank) * block for k in range(count)])
        return inner.Create_resized(0, unit * block * count * self.size), 0

    def indexed_block(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        inner = base.Create_hindexed_block(block, [(k * self.size + self.rank) * block * unit for k in range(count)])
        return inner.Create_resized(0, unit * block * count * self.size), 0

    def struct(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        places = [(k * self.size + self.rank) * block * unit for k in range(count)]
        inner = MPI.Datatype.Create_struct([block] * count, places, [base] * count)
        return inner.Create_resized(0, unit * block * count * self.size), 0

    def nested(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        unit = base.Get_extent()[1]
        row = base.Create_contiguous(block).Create_resized(0, unit * block * self.size)
        return row.Create_contiguous(count).Dup(), self.rank * block * unit

    def darray(self, base: MPI.Datatype, block: int, count: int) -> tuple[MPI.Datatype, int]:
        distributed = base.Create_darray(
            self.size,
            self.rank,
            [count, block * self.size],
            [MPI.DISTRIBUTE_NONE, MPI.DISTRIBUTE_CYCLIC],
            [MPI.DISTRIBUTE_DFLT_DARG, block],
            [1, self.size],
        )
        return distributed, 0


KINDS = [name for name in vars(Types) if not name.startswith("_")]
BASES = {"byte": MPI.BYTE, "int": MPI.INT, "double": MPI.DOUBLE}


@settings(max_examples=60)
@given(data=st.data())
def test_every_call_does_what_mpi_file_does(ranks: Any, store: Path, shared_path: Path, data: st.DataObject) -> None:
    """Views, offsets, pointers and counts of every rank, drawn alike; ours and mpi4py's after each other."""
    kind = data.draw(st.sampled_from(KINDS))
    base = BASES[data.draw(st.sampled_from(list(BASES)))]
    block, count = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 5))
    displacement = data.draw(st.integers(0, 100_000))
    exchange = data.draw(st.sampled_from(["automatic", "enable", "disable"]))
    filetype, skip = getattr(Types(ranks.rank, ranks.size), kind)(base, block, count)
    filetype.Commit()
    info = MPI.Info.Create(
        {"romio_cb_read": exchange, "pinstripe_durability": "none", "pinstripe_batch_bytes": "65536"}
    )
    unit = base.Get_size()

    def run(file: Any, steps: list[tuple[Any, ...]]) -> list[Any]:
        told: list[Any] = []
        file.Set_size(0)
        file.Write_at_all(0, np.zeros(filled if ranks.rank == 0 else 0, np.uint8))
        file.Set_view(displacement + skip, base, filetype)
        for number, (name, offset, counts) in enumerate(steps):
            mine = counts[ranks.rank]
            status = MPI.Status()
            if name.startswith("Write"):
                noise = np.random.default_rng(100 * number + ranks.rank).integers(1, 255, mine * unit, np.uint8)
                arguments: tuple[Any, ...] = ([noise, mine, base], status)
            else:
                out = np.full(mine * unit, 255, np.uint8)
                arguments = ([out, mine, base], status)
            if name == "Seek":
                file.Seek(offset)
            elif "_at" in name:
                getattr(file, name)(offset, *arguments)
            else:
                getattr(file, name)(*arguments)
            if name.startswith("Read"):
                told += [out.tobytes()]
            if name != "Seek":
                told += [status.Get_count(MPI.BYTE)]
            file.Sync()
            ranks.comm.Barrier()
            told += [file.Get_position(), file.Get_byte_offset(offset), file.Get_size()]
        return told

    names = ["Write_at_all", "Read_at_all", "Write_all", "Read_all", "Write_at", "Read_at", "Write", "Read", "Seek"]
    step = st.tuples(
        st.sampled_from(names),
        st.integers(0, 3000),
        st.lists(st.integers(0, 6000), min_size=ranks.size, max_size=ranks.size),
    )
    steps = data.draw(st.lists(step, min_size=1, max_size=6))
    # What lies beyond the end, other libraries differ in: status and buffer of reads, and ROMIO leaves garbage in holes.
    filled = 200_000 + (3000 + 6 * 6000) * 8 * ranks.size
    with ranks.agreed():
        ours = File.Open(ranks.comm, store / "f", CREATE, info)
        got = run(ours, steps)
        ours.Close()
    with ranks.agreed():
        theirs = MPI.File.Open(ranks.comm, str(shared_path / "plain"), CREATE)
        want = run(theirs, steps)
        theirs.Close()
    with ranks.agreed():
        for number, (a, b) in enumerate(zip(got, want, strict=True)):
            assert a == b, (number, steps)
        assert content(store / "f") == (shared_path / "plain").read_bytes()
    filetype.Free()
    info.Free()
