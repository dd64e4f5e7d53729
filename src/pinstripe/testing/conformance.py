"""The suite that every kind of target passes.

Subclass it, give it a fixture, and run pytest on your module::

    class TestMyTarget(TargetConformance):
        @pytest.fixture
        def target(self):
            return MyTarget(...)
"""

from __future__ import annotations

import errno
import os
import threading

import pytest

from ..errors import Error
from ..format.segment import manifest_copy_name, segment_name
from ..targets.contract import Access, Segment, Target

__all__ = ["PlainBatch", "TargetConformance"]

FILE = bytes.fromhex("a0" + "11" * 15)
OTHER = bytes.fromhex("a0" + "22" * 15)  # in the same `aa` directory
THIRD = bytes.fromhex("b1" + "33" * 15)
TX = bytes.fromhex("44" * 16)
NAME = segment_name(TX, 0, 0)
ACCESS = Access(0o640)


class PlainBatch:
    """Stands in for a batch of frames: byte strings, each at the next multiple of 64."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = frames

    def placed_bytes(self, first: int, last: int, start: int) -> int:
        return len(self.tobytes(start, first, last))

    def write(self, fd: int, start: int, first: int, last: int) -> None:
        os.pwrite(fd, self.tobytes(start, first, last), start)

    def tobytes(self, start: int, first: int, last: int) -> bytes:
        data = b""
        for frame in self.frames[first:last]:
            data += bytes(-(start + len(data)) % 64) + frame
        return data


class TargetConformance:
    """What `Target` promises, as tests. Each needs an empty `target`, with room for a few MiB."""

    @pytest.fixture
    def target(self) -> Target:
        """Return an empty target."""
        raise NotImplementedError("a subclass of TargetConformance overrides the fixture `target`")

    def written(self, target: Target, data: bytes, file_id: bytes = FILE, name: str = NAME) -> None:
        """Make a segment with this content."""
        with target.create_segment(file_id, name, ACCESS) as segment:
            segment.write_at(data, 0)

    def read(self, target: Target, file_id: bytes = FILE, name: str = NAME) -> bytes:
        """Return the content of a segment."""
        with target.open_segment(file_id, name) as segment:
            return segment.read_at(0, segment.size())

    def test_it_says_who_it_is(self, target: Target) -> None:
        assert len(target.id) == 16
        assert target.path
        assert target.scope in ("shared", "node")
        assert target.pool is None or target.pool
        target.check()

    def test_what_is_written_is_read_back(self, target: Target) -> None:
        data = os.urandom(300_000)
        self.written(target, data)
        assert self.read(target) == data

    def test_a_new_segment_is_empty_and_is_seen_at_once(self, target: Target) -> None:
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            assert segment.size() == 0
            assert target.list_segments(FILE) == [NAME]
            assert self.read(target) == b""

    def test_a_segment_is_made_once(self, target: Target) -> None:
        self.written(target, b"first")
        with pytest.raises(FileExistsError):
            target.create_segment(FILE, NAME, ACCESS)
        assert self.read(target) == b"first"

    def test_only_one_of_many_threads_makes_a_segment(self, target: Target) -> None:
        gate = threading.Barrier(8)
        made: list[Segment] = []
        refused: list[OSError] = []

        def make() -> None:
            gate.wait()
            try:
                made.append(target.create_segment(FILE, NAME, ACCESS))
            except FileExistsError as error:
                refused.append(error)

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for segment in made:
            segment.close()
        assert (len(made), len(refused)) == (1, 7)

    def test_many_threads_make_segments_of_many_files(self, target: Target) -> None:
        errors: list[BaseException] = []

        def make(number: int) -> None:
            try:
                for round_ in range(8):
                    file_id = bytes([0xC0 + round_]) + bytes(15)
                    self.written(target, b"%d" % number, file_id, segment_name(TX, number, 0))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        for round_ in range(8):
            file_id = bytes([0xC0 + round_]) + bytes(15)
            assert target.list_segments(file_id) == [segment_name(TX, number, 0) for number in range(4)]

    def test_the_writer_reads_what_it_wrote(self, target: Target) -> None:
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.write_at(b"0123456789", 0)
            assert segment.read_at(2, 3) == b"234"
            assert segment.size() == 10

    def test_a_read_is_short_only_at_the_end(self, target: Target) -> None:
        self.written(target, bytes(range(100)))
        with target.open_segment(FILE, NAME) as segment:
            assert segment.read_at(90, 10) == bytes(range(90, 100))
            assert segment.read_at(90, 100) == bytes(range(90, 100))
            assert segment.read_at(100, 1) == b""
            assert segment.read_at(1000, 1) == b""
            assert segment.read_at(5, 0) == b""

    def test_writes_go_where_they_are_told_in_any_order(self, target: Target) -> None:
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.write_at(b"later", 100)
            segment.write_at(memoryview(bytearray(b"early")), 0)
            segment.write_at(b"", 50)
            segment.write_at(b"L", 100)
            assert segment.size() == 105
        assert self.read(target) == b"early" + bytes(95) + b"Later"

    def test_a_buffer_of_numbers_is_written_as_bytes(self, target: Target) -> None:
        values = memoryview(bytes(range(64))).cast("Q")
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.write_at(values, 0)
        assert self.read(target) == bytes(range(64))

    def test_a_batch_is_appended_as_its_bytes(self, target: Target) -> None:
        batch = PlainBatch(b"a" * 70, b"b" * 10, b"c" * 128)
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.write_at(b"h" * 64, 0)
            segment.append(batch, 64, 0, 2)
            segment.append(batch, 64 + batch.placed_bytes(0, 2, 64), 2, 3)
        assert self.read(target) == b"h" * 64 + b"a" * 70 + bytes(58) + b"b" * 10 + bytes(54) + b"c" * 128

    def test_a_descriptor_that_is_given_is_the_segment(self, target: Target) -> None:
        self.written(target, b"through the kernel")
        with target.open_segment(FILE, NAME) as segment:
            fd = segment.fileno()
            if fd is not None:
                assert os.pread(fd, 100, 0) == b"through the kernel"

    def test_threads_read_one_segment_at_once(self, target: Target) -> None:
        data = os.urandom(1 << 18)
        self.written(target, data)
        wrong: list[int] = []
        with target.open_segment(FILE, NAME) as segment:

            def look(start: int) -> None:
                for offset in range(start, len(data), 1 << 15):
                    if segment.read_at(offset, 1 << 15) != data[offset : offset + (1 << 15)]:
                        wrong.append(offset)

            threads = [threading.Thread(target=look, args=(start,)) for start in (0, 7, 4096, 99_999)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not wrong

    def test_a_segment_that_is_opened_cannot_be_written(self, target: Target) -> None:
        self.written(target, b"settled")
        with target.open_segment(FILE, NAME) as segment, pytest.raises(OSError):
            segment.write_at(b"x", 0)
        assert self.read(target) == b"settled"

    def test_a_closed_segment_refuses_everything_but_another_close(self, target: Target) -> None:
        segment = target.create_segment(FILE, NAME, ACCESS)
        segment.close()
        segment.close()
        for use in (
            lambda: segment.read_at(0, 1),
            lambda: segment.write_at(b"x", 0),
            segment.size,
            segment.sync,
            lambda: segment.append(PlainBatch(b"x"), 0, 0, 1),
        ):
            with pytest.raises(OSError) as caught:
                use()
            assert caught.value.errno == errno.EBADF

    def test_what_is_not_there_is_a_missing_file(self, target: Target) -> None:
        with pytest.raises(FileNotFoundError):
            target.open_segment(FILE, NAME)
        with pytest.raises(FileNotFoundError):
            target.read_manifest_copy(FILE, TX)
        self.written(target, b"another")
        with pytest.raises(FileNotFoundError):
            target.open_segment(FILE, segment_name(TX, 0, 1))

    def test_files_do_not_see_each_others_segments(self, target: Target) -> None:
        for file_id in (FILE, OTHER, THIRD):
            self.written(target, file_id, file_id)
        for file_id in (FILE, OTHER, THIRD):
            assert self.read(target, file_id) == file_id
            assert target.list_segments(file_id) == [NAME]
        target.remove_segment(FILE, NAME)
        assert self.read(target, OTHER) == OTHER

    def test_listing_names_what_is_there_in_order(self, target: Target) -> None:
        assert target.list_segments(FILE) == []
        assert list(target.list_files()) == []
        names = [segment_name(TX, stream, n) for stream, n in ((1, 0), (0, 1), (0, 0))]
        for name in names:
            self.written(target, b"", FILE, name)
        self.written(target, b"", THIRD)
        self.written(target, b"", OTHER)
        assert target.list_segments(FILE) == sorted(names)
        assert sorted(target.list_files()) == [FILE, OTHER, THIRD]

    def test_removing_is_final_and_may_be_repeated(self, target: Target) -> None:
        target.remove_segment(FILE, NAME)
        self.written(target, b"gone")
        target.remove_segment(FILE, NAME)
        target.remove_segment(FILE, NAME)
        assert target.list_segments(FILE) == []
        with pytest.raises(FileNotFoundError):
            target.open_segment(FILE, NAME)

    def test_a_segment_that_is_removed_while_open_stays_readable(self, target: Target) -> None:
        self.written(target, b"still here")
        with target.open_segment(FILE, NAME) as segment:
            target.remove_segment(FILE, NAME)
            assert segment.read_at(0, 100) == b"still here"

    def test_a_directory_goes_only_when_it_is_empty(self, target: Target) -> None:
        target.remove_directory(FILE)
        self.written(target, b"data")
        target.remove_directory(FILE)
        assert self.read(target) == b"data"
        target.remove_segment(FILE, NAME)
        target.remove_directory(FILE)
        assert list(target.list_files()) == []
        self.written(target, b"again")
        assert self.read(target) == b"again"

    def test_a_directory_that_is_removed_again_and_again_does_not_fail_the_writer(self, target: Target) -> None:
        stop = threading.Event()

        def collect() -> None:
            while not stop.is_set():
                target.remove_directory(FILE)

        collector = threading.Thread(target=collect)
        collector.start()
        try:
            for n in range(50):
                self.written(target, b"x", FILE, segment_name(TX, 0, n))
                target.remove_segment(FILE, segment_name(TX, 0, n))
        finally:
            stop.set()
            collector.join()

    def test_syncing_succeeds_whatever_is_there(self, target: Target) -> None:
        with target.create_segment(FILE, NAME, ACCESS) as segment:
            segment.write_at(b"durable", 0)
            segment.sync()
            target.sync_directory(FILE)
        target.remove_segment(FILE, NAME)
        target.remove_directory(FILE)
        target.sync_directory(FILE)
        target.sync_directory(THIRD)

    def test_a_manifest_copy_is_read_back_and_replaced_whole(self, target: Target) -> None:
        for durable in (True, False):
            data = os.urandom(200_000)
            target.write_manifest_copy(FILE, TX, data, ACCESS, durable=durable)
            assert target.read_manifest_copy(FILE, TX) == data
        assert target.list_segments(FILE) == [manifest_copy_name(TX)]
        target.remove_segment(FILE, manifest_copy_name(TX))
        assert target.list_segments(FILE) == []

    def test_space_counts_in_bytes(self, target: Target) -> None:
        before = target.space()
        assert 0 < before.free <= before.total
        self.written(target, os.urandom(1 << 20))
        after = target.space()
        assert after.total == before.total
        assert 0 <= after.free <= after.total

    def test_a_name_that_leads_elsewhere_finds_nothing(self, target: Target) -> None:
        self.written(target, b"data")
        for name in (f"../{FILE.hex()}/{NAME}", "..", ".", "", f"./{NAME}"):
            with pytest.raises((FileNotFoundError, Error)):
                target.open_segment(FILE, name)
        assert self.read(target) == b"data"
