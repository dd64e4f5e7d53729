"""Two writers of one file: disjoint bytes both land, the same bytes are a conflict that loses nothing."""

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pinstripe
from pinstripe.errors import ConflictError
from pinstripe.kernels import crc64
from pinstripe.store.collect import collect_store
from pinstripe.store.inode_file import read_inode
from pinstripe.store.opening import open_session
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

STRIPE = 64 << 10
fork = multiprocessing.get_context("fork")
Action = Callable[[Any], object]


def put(path: str, data: bytes, **options: Any) -> None:
    with pinstripe.open(path, "wb", **options) as file:
        file.write(data)


def get(path: str, **options: Any) -> bytes:
    with pinstripe.open(path, "rb", **options) as file:
        data: bytes = file.read()
        return data


def transactions(store: Store) -> list[Path]:
    return list(Path(store.meta).glob("files/*/*/*.tx"))


def race(path: str, first: Action, second: Action, mode: str = "r+b") -> ConflictError | None:
    """Two writers begin on the same generation; `first` commits first. Gives the second one's conflict."""
    with pinstripe.open(path, mode, 0) as winner:
        loser = pinstripe.open(path, mode, 0)
        first(winner)
    second(loser)
    try:
        loser.close()
    except ConflictError as conflict:
        return conflict
    return None


def at_offset(data: bytes, offset: int) -> Action:
    return lambda file: file.pwrite(data, offset)


def cut(size: int) -> Action:
    return lambda file: file.truncate(size)


BASE = np.random.default_rng(3).bytes(5 * STRIPE + 1000)


def patched(data: bytes, *changes: tuple[bytes, int]) -> bytes:
    out = bytearray(data)
    for change, offset in changes:
        out.extend(bytes(max(0, offset + len(change) - len(out))))
        out[offset : offset + len(change)] = change
    return bytes(out)


class TestBothLand:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ((b"A" * STRIPE, 0), (b"B" * STRIPE, STRIPE)),  # whole stripes
            ((b"A" * 10, 0), (b"B" * 10, 3 * STRIPE)),  # pieces of different stripes
            ((b"A" * 10, 5), (b"B" * 10, 15)),  # of the same one
            ((b"A" * 10, 5), (b"B" * 30_000, STRIPE - 10)),  # and across
            ((b"A" * 3 * STRIPE, 7), (b"B" * 2 * STRIPE, 7 + 3 * STRIPE)),  # several merged at once
            ((b"A" * 10, 5), (b"B" * 10, 6 * STRIPE)),  # one grows the file
            ((b"A" * 10, 6 * STRIPE), (b"B" * 10, 5)),
            ((b"A" * 10, 6 * STRIPE), (b"B" * 10, 6 * STRIPE + 10)),  # both grow it, in the same stripe
            ((b"A" * 10, 6 * STRIPE + 10), (b"B" * 10, 6 * STRIPE)),
            ((b"A" * 10, 9 * STRIPE), (b"B" * 10, 7 * STRIPE)),
        ],
    )
    @pytest.mark.parametrize("base", [BASE, BASE[:100]])
    def test_bytes_that_one_alone_wrote_are_both_there(
        self, small: Store, at: str, one: tuple[bytes, int], other: tuple[bytes, int], base: bytes
    ) -> None:
        put(at, base)
        assert race(at, at_offset(*one), at_offset(*other)) is None
        wanted = patched(base, one, other)
        with pinstripe.open(at, "rb") as file:
            assert file.read() == wanted
            assert file.session.base.header.data_crc == crc64(wanted)
        assert transactions(small) == []
        assert verify(small, at).good

    def test_the_same_bytes_written_twice_are_no_conflict(self, at: str) -> None:
        put(at, BASE)
        assert race(at, at_offset(b"same" * 5000, 100), at_offset(b"same" * 5000, 100)) is None
        assert get(at) == patched(BASE, (b"same" * 5000, 100))

    def test_a_loser_that_loses_again_keeps_what_each_of_the_others_wrote_last(self, at: str) -> None:
        put(at, BASE)
        loser = pinstripe.open(at, "r+b", 0)
        loser.pwrite(b"ours", 20)
        others = [(b"x" * 10, 0), (BASE[:10], 0), (b"y" * 10, 100)]  # the second takes the first one's change back

        def another_commits() -> None:
            if others:
                with pinstripe.open(at, "r+b", 0) as file:
                    file.pwrite(*others.pop(0))

        another_commits()
        session = loser.session
        rewrite = session._rewrite

        def once_more(*arguments: Any) -> Any:  # between our merge and our link
            another_commits()
            return rewrite(*arguments)

        session._rewrite = once_more
        loser.close()
        assert get(at) == patched(BASE, (b"ours", 20), (b"y" * 10, 100))

    def test_four_processes_each_write_their_own_range_again_and_again(self, small: Store, at: str) -> None:
        ranks, rounds, share = 4, 5, STRIPE + 1234  # every stripe is shared
        put(at, bytes(ranks * share))

        def work(rank: int) -> None:
            for k in range(rounds):
                with pinstripe.open(at, "r+b", 0, retries=1000, durability="none") as file:
                    file.pwrite(bytes([16 * rank + k + 1]) * share, rank * share)

        in_processes(work, ranks)
        assert get(at) == b"".join(bytes([16 * rank + rounds]) * share for rank in range(ranks))
        assert transactions(small) == []

    def test_sessions_that_set_the_same_size_first_both_land(self, at: str) -> None:
        """As one file opened once a rank on COMM_SELF: each sets the size, then writes its own range."""
        put(at, b"")
        size = 3 * STRIPE + 100

        def part(begin: int, end: int) -> Action:
            def write(file: Any) -> None:
                file.truncate(size)
                file.pwrite(b"x" * (end - begin), begin)

            return write

        assert race(at, part(0, 2 * STRIPE - 5), part(2 * STRIPE - 5, size)) is None
        assert get(at) == b"x" * size


class TestConflict:
    def test_a_byte_that_both_changed_is_a_conflict_that_names_both(self, small: Store, at: str) -> None:
        put(at, BASE)
        winner, loser = (b"A" * 100, 2 * STRIPE + 50), (b"B" * 100, 2 * STRIPE + 149)
        conflict = race(at, at_offset(*winner), at_offset(*loser))
        assert conflict is not None
        assert conflict.errno == errno.EBUSY
        text = str(conflict)
        assert text.count(f"process {os.getpid()} on {os.uname().nodename}") == 2
        assert f"byte {2 * STRIPE + 149}" in text
        assert conflict.transaction in text
        assert get(at) == patched(BASE, winner)
        assert get(at, generation=conflict.transaction) == patched(BASE, loser)
        assert [path.name for path in transactions(small)] == [conflict.transaction + ".tx"]

    def test_what_was_kept_stays_through_collecting_until_its_base_is_given_up(self, small: Store, at: str) -> None:
        put(at, BASE)
        conflict = race(at, at_offset(b"A", 0), at_offset(b"B", 0))
        assert conflict is not None
        for k in range(3):
            put(at, bytes([k]) * 10, grace_s=0)
        collect_store(small)
        assert get(at, generation=conflict.transaction) == patched(BASE, (b"B", 0))
        pinned = stored(small)
        collect_store(small, full=True)
        with pytest.raises(FileNotFoundError, match="keeps no transaction"):
            get(at, generation=conflict.transaction)
        assert transactions(small) == []
        assert stored(small) < pinned

    def test_a_kept_transaction_is_no_live_writer(self, at: str) -> None:
        put(at, BASE)
        assert race(at, at_offset(b"A", 0), at_offset(b"B", 0)) is not None
        with pinstripe.open(at, "r+b", exclusive=True) as file:
            file.write(b"C")
        assert get(at) == patched(BASE, (b"C", 0))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (at_offset(b"A", 3 * STRIPE), cut(2 * STRIPE)),
            (at_offset(b"A", 2 * STRIPE + 10), cut(2 * STRIPE + 5)),  # in the very stripe that is cut
            (at_offset(b"A", 9 * STRIPE), cut(STRIPE)),
            (cut(2 * STRIPE), at_offset(b"B", 3 * STRIPE)),
            (cut(2 * STRIPE + 5), at_offset(b"B", 2 * STRIPE + 10)),
            (cut(10), cut(20)),
            (at_offset(b"A", 8 * STRIPE), cut(7 * STRIPE)),  # grown beyond the size that was set
        ],
    )
    def test_truncation_conflicts_with_what_another_wrote_beyond(self, at: str, first: Action, second: Action) -> None:
        put(at, BASE)
        conflict = race(at, first, second)
        assert conflict is not None
        assert "cut" in str(conflict)
        second_alone = get(at, generation=conflict.transaction)
        put(f"{at}2", BASE)
        with pinstripe.open(f"{at}2", "r+b", 0) as file:
            second(file)
        assert second_alone == get(f"{at}2")

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (at_offset(b"A", 10), cut(2 * STRIPE + 5)),
            (at_offset(b"A", 2 * STRIPE + 1), cut(2 * STRIPE + 5)),  # below, in the same stripe
            (cut(2 * STRIPE), at_offset(b"B", STRIPE)),
            (at_offset(b"A", 5 * STRIPE + 1), cut(7 * STRIPE + 5)),  # below the size that one set, upwards
            (cut(2 * STRIPE + 5), at_offset(b"B", 2 * STRIPE + 1)),
        ],
    )
    def test_truncation_and_what_another_wrote_below_both_land(self, at: str, first: Action, second: Action) -> None:
        put(at, BASE)
        assert race(at, first, second) is None
        put(f"{at}2", BASE)
        for action in (first, second):
            with pinstripe.open(f"{at}2", "r+b", 0) as file:
                action(file)
        assert get(at) == get(f"{at}2")

    def test_the_loser_may_go_on_with_another_file_object(self, at: str) -> None:
        put(at, BASE)
        conflict = race(at, at_offset(b"A", 0), at_offset(b"B", 0))
        assert conflict is not None
        with pinstripe.open(at, "rb", generation=conflict.transaction) as kept, pinstripe.open(at, "r+b") as file:
            file.write(kept.read(1))
        assert get(at) == patched(BASE, (b"B", 0))

    def test_retries_that_are_used_up_keep_the_transaction_too(self, small: Store, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "r+b", 0) as winner:
            loser = pinstripe.open(at, "r+b", 0, retries=0)
            winner.pwrite(b"A", 0)
        loser.pwrite(b"B", STRIPE)
        with pytest.raises(ConflictError, match="lost to other writers 1 times") as caught:
            loser.close()
        assert get(at, generation=caught.value.transaction) == patched(BASE, (b"B", STRIPE))


class TestOtherModes:
    @pytest.mark.parametrize("base", [BASE, BASE[:100], b""])
    @pytest.mark.parametrize("sizes", [(10, 20), (3 * STRIPE, 2 * STRIPE + 7), (STRIPE, 1)])
    def test_two_that_append_both_land_one_after_the_other(
        self, small: Store, at: str, base: bytes, sizes: tuple[int, int]
    ) -> None:
        put(at, base)
        first, second = (np.random.default_rng(k).bytes(size) for k, size in enumerate(sizes))
        assert race(at, lambda f: f.write(first), lambda f: f.write(second), "ab") is None
        assert get(at) == base + first + second
        assert verify(small, at).good

    def test_many_processes_append_and_no_line_is_lost_or_torn(self, at: str) -> None:
        put(at, b"")

        def work(rank: int) -> None:
            for k in range(10):
                with pinstripe.open(at, "a", retries=1000, durability="none") as file:
                    file.write(f"rank {rank} line {k} {'x' * 5000}\n")

        in_processes(work, 3)
        lines = get(at).decode().splitlines()
        assert sorted(lines) == sorted(f"rank {r} line {k} {'x' * 5000}" for r in range(3) for k in range(10))

    def test_an_append_after_a_cut_moves_to_the_new_end(self, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "r+b", 0) as cutter:
            appender = pinstripe.open(at, "ab", 0)
            cutter.truncate(100)
        appender.write(b"end")
        appender.close()
        assert get(at) == BASE[:100] + b"end"

    def test_a_truncated_append_conflicts_as_any_truncation_does(self, at: str) -> None:
        put(at, BASE)

        def cut_and_append(file: Any) -> None:
            file.truncate(50)
            file.write(b"end")

        conflict = race(at, at_offset(b"A", 3 * STRIPE), lambda f: None)
        assert conflict is None
        with pinstripe.open(at, "r+b", 0) as winner:
            loser = pinstripe.open(at, "a+b", 0)
            winner.pwrite(b"A" * 10, 9 * STRIPE)
        cut_and_append(loser)
        with pytest.raises(ConflictError):
            loser.close()

    def test_w_replaces_whatever_is_there(self, small: Store, at: str) -> None:
        put(at, BASE)
        replacing = pinstripe.open(at, "wb")
        replacing.write(b"all new")
        with pinstripe.open(at, "r+b") as file:
            file.write(b"in between")
        replacing.close()
        assert get(at) == b"all new"
        assert get(at, generation=2) == patched(BASE, (b"in between", 0))

    def test_who_wrote_on_what_w_replaced_meets_a_conflict(self, at: str) -> None:
        put(at, BASE)
        file = pinstripe.open(at, "r+b", 0)
        put(at, b"short")
        file.pwrite(b"x", 3 * STRIPE)
        with pytest.raises(ConflictError):
            file.close()
        assert get(at) == b"short"


class TestNames:
    def test_committing_to_a_removed_file_is_a_clear_error_and_creates_nothing(self, small: Store, at: str) -> None:
        for base, mode in ((BASE, "r+b"), (BASE[:10], "ab"), (BASE, "wb")):
            put(at, base)
            file = pinstripe.open(at, mode)
            file.write(b"x" * 3 * STRIPE)
            pinstripe.remove(at)
            with pytest.raises(FileNotFoundError, match="removed while it was open"):
                file.close()
            assert not pinstripe.exists(at)
            assert everything(small) == []

    def test_a_removed_file_that_is_only_closed_leaves_nothing_either(self, small: Store, at: str) -> None:
        put(at, BASE)
        file = pinstripe.open(at, "r+b")
        pinstripe.remove(at)
        file.close()
        assert everything(small) == []

    def test_a_file_that_was_replaced_while_open_leaves_the_new_one_alone(self, small: Store, at: str) -> None:
        put(at, BASE)
        put(f"{at}2", b"the new one")
        file = pinstripe.open(at, "r+b")
        file.write(b"x")
        pinstripe.replace(f"{at}2", at)
        with pytest.raises(FileNotFoundError, match="removed while it was open"):
            file.close()
        assert get(at) == b"the new one"
        assert pinstripe.listdir(small.root) == ["f"]

    def test_a_file_renamed_while_open_is_written_under_its_new_name(self, small: Store, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "r+b", 0) as file:
            file.pwrite(b"x", 0)
            pinstripe.rename(at, f"{at}2")
            put(at, b"another")
            assert file.sync() == 2
            file.pwrite(b"y", 1)
        assert get(f"{at}2") == patched(BASE, (b"xy", 0))
        assert get(at) == b"another"

    def test_a_reader_goes_on_through_rename(self, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "rb", 0) as file:
            pinstripe.rename(at, f"{at}2")
            assert file.readall() == BASE

    def test_w_on_a_name_that_came_meanwhile_replaces_it_and_frees_it(self, small: Store, at: str) -> None:
        for size in (10, 3 * STRIPE):
            file = pinstripe.open(at, "wb")
            file.write(b"x" * size)
            put(at, BASE)
            file.close()
            assert get(at) == b"x" * size
            assert len(list(Path(small.meta).glob("files/*/*"))) <= 1
            pinstripe.remove(at)


class TestExclusive:
    def test_exclusive_refuses_beside_a_live_writer(self, small: Store, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "r+b") as file:
            with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
                pinstripe.open(at, "r+b", exclusive=True)
            assert len(transactions(small)) == 1
            file.write(b"x")
        with pinstripe.open(at, "r+b", exclusive=True):
            pass

    def test_readers_are_no_writers(self, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "rb"), pinstripe.open(at, "r+b", exclusive=True) as file:
            file.write(b"x")
        assert get(at)[:1] == b"x"

    def test_exclusive_does_not_refuse_beside_a_dead_writer(self, at: str) -> None:
        put(at, BASE)
        die_while_writing(at)
        with pinstripe.open(at, "r+b", exclusive=True) as file:
            file.write(b"x")
        assert get(at) == patched(BASE, (b"x", 0))


class TestReaders:
    def test_each_read_beside_a_writer_sees_one_generation_whole(self, small: Store, at: str) -> None:
        count = (3 * STRIPE + 800) // 8
        write_numbers(at, 1, count)
        stop = fork.Event()
        problems, reads = fork.Queue(), fork.Value("i", 0)

        def read(rank: int) -> None:
            last = 0
            while not stop.is_set():
                with pinstripe.open(at, "rb", 0) as file:
                    generation = file.generation
                    numbers = np.frombuffer(file.readall(), np.int64)
                if len(numbers) != count or not (numbers == generation).all() or generation < last:
                    problems.put((generation, last, np.unique(numbers).tolist()))
                    return
                last = generation
                with reads:
                    reads.value += 1

        readers = [fork.Process(target=read, args=(rank,)) for rank in range(3)]
        for reader in readers:
            reader.start()
        for number in range(2, 60):
            write_numbers(at, number, count)
        enough = threading.Event()
        while reads.value < 30 and any(reader.is_alive() for reader in readers):
            enough.wait(0.01)
        stop.set()
        for reader in readers:
            reader.join()
        assert problems.empty(), problems.get()
        assert [reader.exitcode for reader in readers] == [0, 0, 0]

    def test_a_reader_that_opened_before_a_commit_keeps_its_generation(self, at: str) -> None:
        put(at, BASE)
        with pinstripe.open(at, "rb", 0) as file:
            put(at, b"new")
            assert (file.size, file.readall()) == (len(BASE), BASE)


def write_numbers(path: str, number: int, count: int) -> None:
    """Rewrite a file so that every 8 bytes are the generation's number: wholly, or in two pieces."""
    numbers = np.full(count, number, np.int64)
    if number % 2:
        put(path, numbers.tobytes(), grace_s=60, durability="none")
        return
    with pinstripe.open(path, "r+b", 0, grace_s=60, durability="none") as file:
        half = count // 2
        file.pwrite(numbers[half:], 8 * half)
        file.pwrite(numbers[:half], 0)


def in_processes(work: Callable[[int], None], count: int) -> None:
    processes = [fork.Process(target=work, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count


def die_while_writing(path: str) -> None:
    """A process writes some stripes, and is killed."""
    pid = os.fork()
    if not pid:
        try:
            file = pinstripe.open(path, "r+b", 0)
            file.write(b"dead" * STRIPE)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def stored(store: Store) -> int:
    return sum(path.stat().st_size for target in store.targets for path in Path(target.path).glob("??/*/*"))


def everything(store: Store) -> list[str]:
    """All that is left of any file."""
    found = [str(path) for path in Path(store.meta).glob("files/??/*")]
    return found + [str(path) for target in store.targets for path in Path(target.path).glob("??/*")]


def test_a_session_of_mode_c_makes_the_file_or_takes_it(small: Store, at: str) -> None:
    for k in range(2):
        session = open_session(at, "c")
        session.write(k * 3, b"abc")
        session.publish(final=True)
        session.close()
    assert get(at) == b"abcabc"
    assert read_inode(at)[0].kind in ("generations", "inline")
