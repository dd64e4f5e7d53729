"""The Pythonic face: what is written by some ranks is read by others, whatever the shapes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi.agree import Operation
from pinstripe.mpi.extents import Access


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


def test_contiguous_shards_of_unequal_sizes_make_one_file(ranks: Any, store: Path) -> None:
    sizes = [70_001 * (rank % 3) + 11 * rank for rank in range(ranks.size)]  # some have nothing
    starts = np.cumsum([0, *sizes]).tolist()
    mine = np.random.default_rng(ranks.rank).integers(0, 256, sizes[ranks.rank], np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "shards", "w") as file:
        file.write_at_all(starts[ranks.rank], mine)
        assert file.size == starts[-1]
    want = b"".join(ranks.comm.allgather(mine.tobytes()))
    assert content(store / "shards") == want


@pytest.mark.parametrize("exchange", ["auto", "always"])
def test_whole_stripes_stay_where_they_are_and_shared_ones_travel(ranks: Any, store: Path, exchange: str) -> None:
    each = 10 * 65536 + 100
    mine = np.arange(each, dtype=np.uint64).view(np.uint8)[:each] + np.uint8(ranks.rank)
    with pinstripe.mpi.open(ranks.comm, store / exchange, "w", exchange_write=exchange) as file:
        file.write_at_all(ranks.rank * each, mine)
    report = file.report()
    assert content(store / exchange) == b"".join(ranks.comm.allgather(mine.tobytes()))
    assert report.decisions.writers == ranks.size
    if exchange == "auto":
        assert report.total.stripes_in_place >= 9 * ranks.size
        assert report.total.exchange_bytes < ranks.size * 2 * 65536
        assert report.decisions.writes["contiguous"] == 1
    elif ranks.size > 1:
        assert report.total.stripes_in_place == 0
        assert report.total.exchange_bytes >= ranks.size * each * (ranks.size - 1) // ranks.size - 20 * 65536


def test_no_rank_has_anything(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "empty", "w") as file:
        file.write_at_all(0, np.zeros(0))
        file.write_at_all(1 << 40, None)
        assert file.size == 0
    assert content(store / "empty") == b""
    with pinstripe.mpi.open(ranks.comm, store / "empty") as file:
        assert file.read_at_all(0, None) == 0
        assert file.read_at_all(5, np.zeros(4)) == 0


def test_only_one_rank_has_something(ranks: Any, store: Path) -> None:
    last = ranks.size - 1
    data = np.arange(50_000) if ranks.rank == last else None
    with pinstripe.mpi.open(ranks.comm, store / "one", "w") as file:
        file.write_at_all(1000, data)
    want = bytes(1000) + np.arange(50_000).tobytes()
    assert content(store / "one") == want


def test_more_ranks_than_stripes(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "small", "w") as file:
        file.write_at_all(ranks.rank * 10, np.full(10, ranks.rank, np.uint8))
    assert content(store / "small") == b"".join(bytes([rank]) * 10 for rank in range(ranks.size))


def test_writers_and_readers_may_be_any_number(ranks: Any, store: Path) -> None:
    whole = np.random.default_rng(3).integers(0, 5, 700_001, np.uint8)
    for writers in range(1, ranks.size + 1):
        group = ranks.comm.Split(int(ranks.rank < writers), ranks.rank)
        name = store / f"by{writers}"
        if ranks.rank < writers:
            part = np.array_split(whole, writers)[ranks.rank]
            start = sum(len(p) for p in np.array_split(whole, writers)[: ranks.rank])
            with pinstripe.mpi.open(group, name, "w") as file:
                file.write_at_all(start, part)
        group.Free()
        ranks.comm.Barrier()
        for readers in range(1, ranks.size + 1):
            group = ranks.comm.Split(int(ranks.rank < readers), ranks.rank)
            if ranks.rank < readers:
                parts = np.array_split(whole, readers)
                out = np.zeros_like(parts[ranks.rank])
                with pinstripe.mpi.open(group, name) as file:
                    assert file.read_at_all(sum(len(p) for p in parts[: ranks.rank]), out) == len(out)
                assert (out == parts[ranks.rank]).all()
            group.Free()


@pytest.mark.parametrize("exchange", ["auto", "always", "never"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_block_decomposed_array_is_in_row_major_order(ranks: Any, store: Path, axis: int, exchange: str) -> None:
    shape = (24, 30, 50)
    whole = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    cut = np.array_split(np.arange(shape[axis]), ranks.size)[ranks.rank]
    where = [slice(None)] * 3
    where[axis] = slice(int(cut[0]), int(cut[-1]) + 1)
    starts = [0, 0, 0]
    starts[axis] = int(cut[0])
    block = whole[tuple(where)]
    with pinstripe.mpi.open(ranks.comm, store / "field", "w") as file:
        file.write_array_all(block, shape, starts, offset=77)
    assert content(store / "field") == bytes(77) + whole.tobytes()
    out = np.zeros_like(block, order="F")
    with pinstripe.mpi.open(ranks.comm, store / "field", exchange_read=exchange) as file:
        assert file.read_array_all(out, shape, starts, offset=77) == block.nbytes
        decided = file.report().decisions.reads
    assert (out == block).all()
    if ranks.size > 1 and exchange != "auto":
        assert decided["shared"] == (exchange == "always")


def test_all_ranks_read_the_same_once(ranks: Any, store: Path) -> None:
    whole = np.random.default_rng(1).integers(0, 256, 40 * 65536 + 7, np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "same", "w", codec="raw") as file:
        file.write_at_all(0, whole if ranks.rank == 0 else None)
    out = np.zeros_like(whole)
    with pinstripe.mpi.open(ranks.comm, store / "same") as file:
        assert file.read_at_all(0, out) == len(whole)
        report = file.report()
    assert (out == whole).all()
    assert report.total.read_bytes <= len(whole) + 65536
    if ranks.size > 1:
        assert report.decisions.reads == {"direct": 0, "shared": 1}
        assert "wanted the same stripes" in report.decisions.exchange


def test_a_read_beyond_the_end_is_short_and_leaves_the_rest(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "short", "w") as file:
        file.write_at_all(0, np.full(100_000, 7, np.uint8) if ranks.rank == 0 else None)
    with pinstripe.mpi.open(ranks.comm, store / "short") as file:
        out = np.full(65536, 9, np.uint8)
        assert file.read_at_all(60_000, out) == 40_000
        assert (out[:40_000] == 7).all()
        assert (out[40_000:] == 9).all()
        assert file.read_at(99_999, out) == 1
        assert file.read_at(100_000, out) == 0


def test_a_sync_publishes_once_and_only_when_something_changed(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "sync", "w") as file:
        file.write_at_all(ranks.rank * 20_000, np.full(20_000, 1, np.uint8))
        assert file.sync() == 1
        assert content(store / "sync") == bytes([1]) * 20_000 * ranks.size
        ranks.comm.Barrier()
        assert file.sync() == 1
        file.write_at_all(ranks.rank * 20_000, np.full(50, 2, np.uint8))
        assert content(store / "sync") == bytes([1]) * 20_000 * ranks.size
        ranks.comm.Barrier()
        assert file.sync() == 2
    assert file.generation == 2
    assert content(store / "sync") == (bytes([2]) * 50 + bytes([1]) * 19_950) * ranks.size


def test_a_new_file_has_no_name_before_its_first_commit(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "later", "x") as file:
        file.write_at_all(0, b"data" if ranks.rank == 0 else None)
        assert not pinstripe.exists(store / "later")
        ranks.comm.Barrier()
    assert content(store / "later") == b"data"
    with pytest.raises(FileExistsError) as caught:
        pinstripe.mpi.open(ranks.comm, store / "later", "x")
    assert caught.value.Get_error_class() == MPI.ERR_FILE_EXISTS


def test_a_replacement_appears_at_the_commit(ranks: Any, store: Path) -> None:
    for value in (b"old", b"newer"):
        with pinstripe.mpi.open(ranks.comm, store / "again", "w") as file:
            file.write_at_all(0, value if ranks.rank == 0 else None)
            if value == b"newer":
                assert content(store / "again") == b"old"
            ranks.comm.Barrier()
    assert content(store / "again") == b"newer"


def test_appending_begins_at_the_end(ranks: Any, store: Path) -> None:
    for _ in range(3):
        with pinstripe.mpi.open(ranks.comm, store / "log", "a") as file:
            file.write_at_all(file.size + ranks.rank * 7, b"line %02d" % ranks.rank)
    assert content(store / "log") == b"".join(b"line %02d" % rank for rank in range(ranks.size)) * 3


def test_a_rank_reads_what_it_wrote_before_any_sync(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "rw", "w") as file:
        file.write_at_all(0, bytes(300_000) if ranks.rank == 0 else None)
    with pinstripe.mpi.open(ranks.comm, store / "rw", "r+") as file:
        each, out = 300_000 // ranks.size, np.zeros(1000, np.uint8)
        at = ranks.rank * each + 500
        file.write_at_all(at, np.full(1000, ranks.rank + 1, np.uint8))  # went to the owner of its stripe
        assert file.read_at(at, out) == 1000
        assert (out == ranks.rank + 1).all()
        file.write_at(at, np.full(10, 99, np.uint8))  # stays here
        assert file.read_at(at, out) == 1000
        assert (out[:10] == 99).all()
        assert (out[10:] == ranks.rank + 1).all()
        assert file.read_at_all(at, out) == 1000
        assert (out[:10] == 99).all()
        file.write_at_all(at + 20, np.full(10, 98, np.uint8))
        assert file.read_at(at, out) == 1000
        want = np.full(1000, ranks.rank + 1)
        want[:10], want[20:30] = 99, 98
        assert (out == want).all()
    all_wants = ranks.comm.allgather((at, want.astype(np.uint8).tobytes()))
    model = bytearray(300_000)
    for start, piece in all_wants:
        model[start : start + 1000] = piece
    assert content(store / "rw") == model


def test_independent_writes_reach_the_file_with_the_next_collective_call(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "alone", "w") as file:
        for step in range(5):
            file.write_at(
                (step * ranks.size + ranks.rank) * 30_000, np.full(30_000, ranks.rank * 5 + step + 1, np.uint8)
            )
    want = b"".join(bytes([rank * 5 + step + 1]) * 30_000 for step in range(5) for rank in range(ranks.size))
    assert content(store / "alone") == want


def test_of_two_writes_of_the_same_bytes_the_later_call_wins(ranks: Any, store: Path) -> None:
    stripe, last = 65536, ranks.size - 1
    with pinstripe.mpi.open(ranks.comm, store / "later", "w") as file:
        # A part from rank 0 goes to the owner; then the last rank writes the stripe whole, in place; then a part again.
        for k in range(6):
            file.write_at_all(k * stripe + 10, b"first" if ranks.rank == 0 else None)
        file.write_at_all(0, np.full(6 * stripe, 1, np.uint8) if ranks.rank == last else None)
        for k in range(6):
            file.write_at_all(k * stripe + 12, b"third" if ranks.rank == 0 else None)
        file.write_at(20 * (ranks.rank + 1), b"alone")
        file.write_at_all(stripe, b"fifth" if ranks.rank == last else None)
    want = np.full(6 * stripe, 1, np.uint8)
    for k in range(6):
        want[k * stripe + 12 : k * stripe + 17] = np.frombuffer(b"third", np.uint8)
    for rank in range(ranks.size):
        want[20 * (rank + 1) : 20 * (rank + 1) + 5] = np.frombuffer(b"alone", np.uint8)
    want[stripe : stripe + 5] = np.frombuffer(b"fifth", np.uint8)
    assert content(store / "later") == want.tobytes()


@pytest.mark.parametrize("way", ["contiguous", "interleaved", "alone"])
def test_parts_of_calls_before_and_after_a_whole_stripe_do_not_meet(ranks: Any, store: Path, way: str) -> None:
    """Together they cover it; but what came before it is gone."""
    stripe, count = 65536, 2 * ranks.size
    ones, twos, threes = (np.full(stripe, value, np.uint8) for value in (1, 2, 3))
    other = (np.arange(count) + 1) % ranks.size  # who writes stripe k whole: not its owner, but on one rank
    with pinstripe.mpi.open(ranks.comm, store / "between", "w", cache_bytes="1M") as file:
        for k in range(count):
            file.write_at_all(k * stripe + 30_000, ones[30_000:] if ranks.rank == 0 else None)
        if way == "interleaved":
            where = [(k, k * stripe) for k in range(count) if other[k] == ranks.rank]
            access = Access.of_extents([at for _, at in where], [stripe] * len(where))
            data = np.tile(twos, len(where))
            file._shared.write_all(Operation.write_all, lambda: (access, data, 0))
        for k in range(count):
            mine = other[k] == ranks.rank
            if way == "contiguous":
                file.write_at_all(k * stripe, twos if mine else None)
            elif way == "alone" and mine:
                file.write_at(k * stripe, twos)
        for k in range(count):
            file.write_at_all(k * stripe, threes[:40_000] if ranks.rank == 0 else None)
    want = np.concatenate([threes[:40_000], twos[40_000:]])
    assert content(store / "between") == np.tile(want, count).tobytes()


def test_a_whole_stripe_written_alone_wins_over_older_parts(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "whole", "w") as file:
        for k in range(2 * ranks.size):
            file.write_at_all(k * 65536 + 5, b"older" if ranks.rank == 0 else None)
        for k in range(2):
            file.write_at((k * ranks.size + ranks.rank) * 65536, np.full(65536, ranks.rank + 1, np.uint8))
    want = b"".join(bytes([rank + 1]) * 65536 for _ in range(2) for rank in range(ranks.size))
    assert content(store / "whole") == want


def test_a_change_of_size_cuts_and_grows(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "size", "w") as file:
        file.write_at_all(ranks.rank * 100_000, np.full(100_000, ranks.rank + 1, np.uint8))
        file.resize(70_003)
        assert file.size == 70_003
        file.resize(150_000)
    assert content(store / "size") == bytes([1]) * 70_003 + bytes(79_997)
    with pinstripe.mpi.open(ranks.comm, store / "size", "r+") as file:
        file.write_at(10 * ranks.rank, b"0123456789")
        file.resize(5)
        assert file.size == 5
        file.write_at_all(10 + ranks.rank, b"x")
    assert content(store / "size") == b"01234" + bytes(5) + b"x" * ranks.size


def test_one_element_width_steers_the_shuffle(ranks: Any, store: Path) -> None:
    smooth = np.linspace(0, 1, 200_000) + ranks.rank
    with pinstripe.mpi.open(ranks.comm, store / "smooth", "w") as file:
        file.write_at_all(ranks.rank * smooth.nbytes, smooth)
    codecs = file.report().decisions.codecs
    assert codecs["planes"] > 0.9 * sum(codecs.values())


def test_few_segments_leave_few_owners(ranks: Any, store: Path) -> None:
    each = 5 * 65536 + 1000
    mine = np.full(each, ranks.rank + 1, np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "few", "w", max_segments=2, codec="raw") as file:
        file.write_at_all(ranks.rank * each, mine)
        file.sync()
        report = file.report()
        file.write_at_all(ranks.rank * each + 3, b"again")
    assert report.decisions.writers == report.decisions.owners == min(2, ranks.size)
    want = bytearray(b"".join(bytes([rank + 1]) * each for rank in range(ranks.size)))
    for rank in range(ranks.size):
        want[rank * each + 3 : rank * each + 8] = b"again"
    assert content(store / "few") == want


def test_a_communicator_may_be_smaller_than_the_world(ranks: Any, store: Path) -> None:
    half = ranks.comm.Split(ranks.rank % 2, -ranks.rank)  # in the other order
    with pinstripe.mpi.open(half, store / f"half{ranks.rank % 2}", "w") as file:
        file.write_at_all(half.rank, bytes([ranks.rank + 65]))
    want = bytes(rank + 65 for rank in range(ranks.size - 1, -1, -1) if rank % 2 == ranks.rank % 2)
    assert content(store / f"half{ranks.rank % 2}") == want
    half.Free()


def test_several_files_are_open_at_once(ranks: Any, store: Path) -> None:
    files = [pinstripe.mpi.open(ranks.comm, store / f"f{k}", "w") for k in range(5)]
    for turn in range(3):
        for k, file in enumerate(files):
            file.write_at_all((turn * ranks.size + ranks.rank) * 1000, np.full(1000, k * 3 + turn, np.uint8))
    for file in reversed(files):
        file.close()
    for k in range(5):
        assert content(store / f"f{k}") == b"".join(bytes([k * 3 + turn]) * 1000 * ranks.size for turn in range(3))


def test_one_file_opened_once_per_rank_takes_disjoint_ranges(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "selves", "w") as file:
        file.write_at_all(0, bytes(200_000 * ranks.size) if ranks.rank == 0 else None)
    file = pinstripe.mpi.open(MPI.COMM_SELF, store / "selves", "r+", retries=50)
    ranks.comm.Barrier()
    file.write_at(ranks.rank * 200_000, np.full(200_000, ranks.rank + 1, np.uint8))
    file.close()
    ranks.comm.Barrier()
    want = b"".join(bytes([rank + 1]) * 200_000 for rank in range(ranks.size))
    assert content(store / "selves") == want


def test_a_report_reads_like_a_table(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "told", "w") as file:
        file.write_at_all(ranks.rank * 100_000, np.zeros(100_000, np.uint8))
        before = file.report()
    after = file.report()
    assert before.total.raw_bytes <= after.total.raw_bytes
    assert len(after.ranks) == ranks.size
    assert after.total.raw_bytes == 100_000 * ranks.size
    assert after.slowest.commit_s > 0
    text = str(after)
    assert "told, generation 1" in text
    assert all(
        word in text for word in ("exchange", "compress", "checksum", "write", "sync", "index", "commit", "target")
    )
    assert len(set(ranks.comm.allgather(text))) == 1
    with pytest.raises(AttributeError):
        after.generation = 5


@st.composite
def extents(draw: st.DrawFn, size: int) -> list[list[tuple[int, int]]]:
    """Disjoint extents, dealt to ranks."""
    count = draw(st.integers(0, 60))
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    at = draw(st.integers(0, 70_000))
    for _ in range(count):
        at += draw(st.sampled_from([0, 0, 0, 1, 17, 4096, 65_536, 300_000]))
        length = draw(st.one_of(st.integers(1, 300), st.sampled_from([16_384, 65_536, 65_537, 200_000])))
        dealt[draw(st.integers(0, size - 1))].append((at, length))
        at += length
    return dealt


@settings(max_examples=60)
@given(st.data())
def test_any_pieces_of_any_ranks_make_the_file(ranks: Any, store: Path, data: st.DataObject) -> None:
    """Several collective calls of random extents, then random reads, against one array."""
    model = np.zeros(0, np.uint8)
    options = {
        "batch_bytes": data.draw(st.sampled_from([65_536, 1 << 20])),
        "exchange_write": data.draw(st.sampled_from(["auto", "always"])),
        "exchange_read": data.draw(st.sampled_from(["auto", "always", "never"])),
        "max_segments": data.draw(st.sampled_from([1, 2, 4096])),
        "overlap": data.draw(st.sampled_from(["error", "higher"])),
        "cache_bytes": data.draw(st.sampled_from([1 << 20, 64 << 20])),  # 16 stripes, then parts are spilled
        "durability": "none",
    }
    reading = data.draw(st.booleans())
    if reading:
        with ranks.agreed(), pinstripe.mpi.open(ranks.comm, store / "any", "w") as file:
            pass
    with ranks.agreed(), pinstripe.mpi.open(ranks.comm, store / "any", "r+" if reading else "w", **options) as file:
        for call in range(data.draw(st.integers(1, 3))):
            dealt = data.draw(extents(ranks.size))
            end = max((at + length for pieces in dealt for at, length in pieces), default=0)
            model = np.concatenate([model, np.zeros(max(0, end - model.size), np.uint8)])
            for rank, pieces in enumerate(dealt):
                for number, (at, length) in enumerate(pieces):
                    noise = np.random.default_rng(call * 1000 + rank * 100 + number)
                    model[at : at + length] = noise.integers(1, 255, length, np.uint8)
            mine = np.array(dealt[ranks.rank], np.int64).reshape(-1, 2)
            access = Access.of_extents(mine[:, 0], mine[:, 1])
            pieces = [model[at : at + length] for at, length in mine.tolist()]
            packed = np.concatenate([*pieces, np.zeros(0, np.uint8)])
            if data.draw(st.booleans()):
                file._shared.write_all(Operation.write_all, lambda access=access, packed=packed: (access, packed, 0))
                assert file.size == model.size
            else:
                file._shared.write(access, packed, 0)
                # Of independent writes of several ranks the order is known only where a collective call lies between.
                file.sync() if data.draw(st.booleans()) else file.write_at_all(0, None)
                assert file.size == model.size
            if not reading:
                continue
            wanted = np.array(data.draw(extents(ranks.size))[ranks.rank], np.int64).reshape(-1, 2)
            access = Access.of_extents(wanted[:, 0], wanted[:, 1])
            out = np.full(access.nbytes, 255, np.uint8)
            count = file._shared.read_all(Operation.read_all, lambda access=access, out=out: (access, out))
            want = np.concatenate([*(model[at : at + length] for at, length in wanted.tolist()), np.zeros(0, np.uint8)])
            assert count == want.size
            assert (out[:count] == want).all()
            assert (out[count:] == 255).all()
    with ranks.agreed():
        assert content(store / "any") == model.tobytes()


def test_a_forked_child_can_do_nothing_with_the_file(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "forked", "w") as file:
        child = os.fork()
        if not child:
            try:
                file.write_at(0, b"of the child")
            except pinstripe.ForkedError:
                file.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        file.write_at_all(ranks.rank, b"x")
    assert content(store / "forked") == b"x" * ranks.size
