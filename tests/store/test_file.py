"""File objects are Python's own: buffered, text, threads, forks; and closing commits, an exception does not."""

import copy
import errno
import gc
import io
import json
import os
import pickle
import shutil
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pinstripe
from pinstripe.errors import ArgumentError, ForkedError, TargetError, UnsupportedError
from pinstripe.store.file import BufferedFile, RawFile, TextFile
from pinstripe.store.generation import Generation, list_numbers
from pinstripe.store.inode_file import read_inode
from pinstripe.store.store import Store
from pinstripe.testing.targets import FailingTarget, wrap

STRIPE = 64 << 10
NOISE = np.random.default_rng(1).bytes(10 * STRIPE + 123)


def put(path: str, data: bytes, **options: Any) -> None:
    with pinstripe.open(path, "wb", **options) as file:
        file.write(data)


def get(path: str, **options: Any) -> bytes:
    with pinstripe.open(path, "rb", **options) as file:
        data: bytes = file.read()
        return data


def spoil(file: Any, *pieces: bytes) -> None:
    """Write pieces, each but the last synced, and leave ``with`` by an exception."""
    with file:
        for piece in pieces[:-1]:
            file.write(piece)
            file.sync()
        file.write(pieces[-1])
        raise KeyError


def held(store: Store) -> list[str]:
    """Everything on the targets, and every transaction and name-to-be."""
    found = [
        f"{t.path}:{name}" for t in store.targets for file_id in t.list_files() for name in t.list_segments(file_id)
    ]
    return found + [str(path) for path in Path(store.meta, "files").glob("*/*/*.[tn]*")]


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "buffering", "kind"),
        [
            ("rb", 0, RawFile),
            ("rb", -1, io.BufferedReader),
            ("wb", -1, io.BufferedWriter),
            ("ab", 100, io.BufferedWriter),
            ("r+b", -1, io.BufferedRandom),
            ("w+b", -1, io.BufferedRandom),
            ("r", -1, io.TextIOWrapper),
            ("wt", 1, TextFile),
        ],
    )
    def test_each_mode_gives_the_kind_of_object_that_open_gives(
        self, at: str, mode: str, buffering: int, kind: type
    ) -> None:
        put(at, b"abc")
        with pinstripe.open(at, mode, buffering) as file:
            assert isinstance(file, kind)
            assert (file.mode, file.name) == (mode, at)
            assert file.readable() == ("r" in mode or "+" in mode)
            assert file.writable() == (mode not in ("r", "rb"))
            assert file.seekable()

    @pytest.mark.parametrize("mode", ["", "b", "rw", "rr", "q", "r+w", "rbt", "+", "U"])
    def test_a_mode_that_open_does_not_know_is_refused(self, at: str, mode: str) -> None:
        with pytest.raises(ValueError, match="one of r, w, x, a"):
            pinstripe.open(at, mode)

    def test_arguments_that_do_not_go_together_are_refused(self, at: str) -> None:
        with pytest.raises(ArgumentError, match="encoding"):
            pinstripe.open(at, "rb", encoding="utf-8")
        with pytest.raises(ArgumentError, match="unbuffered"):
            pinstripe.open(at, "r", 0)
        with pytest.raises(ArgumentError, match="older generation"):
            pinstripe.open(at, "r+", generation=1)
        with pytest.raises(ArgumentError, match="unknown option"):
            pinstripe.open(at, "w", speed=3)

    @pytest.mark.parametrize("arguments", [{"encoding": "klingon"}, {"newline": "x"}])
    def test_a_codec_that_nobody_knows_leaves_nothing_open(
        self, small: Store, at: str, arguments: dict[str, str]
    ) -> None:
        put(at, NOISE)
        before = held(small)
        with pytest.raises((LookupError, ValueError)):
            pinstripe.open(at, "w", **arguments)
        gc.collect()
        assert held(small) == before
        assert get(at) == NOISE

    def test_reading_what_is_open_for_writing_only_is_refused_and_the_other_way_round(self, at: str) -> None:
        for buffering in (0, -1):
            with pinstripe.open(at, "wb", buffering) as file:
                with pytest.raises(io.UnsupportedOperation):
                    file.read(1)
                file.write(b"abc")
            with pinstripe.open(at, "rb", buffering) as file:
                with pytest.raises(io.UnsupportedOperation):
                    file.write(b"x")
                with pytest.raises(io.UnsupportedOperation):
                    file.truncate(1)
                with pytest.raises(UnsupportedError):
                    file.sync()

    def test_a_missing_file_is_made_by_w_x_and_a_and_missing_to_r(self, small: Store) -> None:
        for mode in ("r", "r+"):
            with pytest.raises(FileNotFoundError):
                pinstripe.open(f"{small.root}/no", mode)
        for mode in ("w", "x", "a"):
            pinstripe.open(f"{small.root}/{mode}", mode).close()
            assert get(f"{small.root}/{mode}") == b""
        with pytest.raises(FileExistsError):
            pinstripe.open(f"{small.root}/w", "x")
        with pytest.raises(IsADirectoryError):
            pinstripe.open(small.root, "r")
        with pytest.raises(FileNotFoundError):
            pinstripe.open(f"{small.root}/no/f", "w")

    def test_x_refuses_a_name_that_another_made_meanwhile(self, small: Store, at: str) -> None:
        for size in (10, 3 * STRIPE):  # inline, and with segments
            file = pinstripe.open(at, "xb")
            file.write(NOISE[:size])
            put(at, b"first")
            with pytest.raises(FileExistsError):
                file.close()
            assert get(at) == b"first"
            pinstripe.remove(at)
            assert held(small) == []

    def test_mode_a_writes_at_the_end_only(self, at: str) -> None:
        put(at, b"0123456789")
        with pinstripe.open(at, "ab", 0) as file:
            assert file.tell() == 10
            file.seek(3)
            file.write(b"abc")
            with pytest.raises(io.UnsupportedOperation, match="r\\+"):
                file.pwrite(b"x", 3)
            file.pwrite(b"d", 13)
        assert get(at) == b"0123456789abcd"

    @pytest.mark.parametrize("offset", [-1, 1 << 60, 1 << 63, 1 << 70])
    def test_an_offset_that_cannot_be_is_refused_and_spoils_nothing(self, at: str, offset: int) -> None:
        with pinstripe.open(at, "wb", 0) as file:
            file.write(b"abc")
            with pytest.raises(ValueError, match="offset"):
                file.pwrite(b"x", offset)
        assert get(at) == b"abc"

    @pytest.mark.parametrize("size", [-1, 1 << 60, 1 << 63])
    def test_a_size_that_cannot_be_is_refused_and_spoils_nothing(self, at: str, size: int) -> None:
        with pinstripe.open(at, "wb", 0) as file:
            file.write(b"abc")
            with pytest.raises(ValueError, match="size"):
                file.truncate(size)
        assert get(at) == b"abc"

    def test_what_is_closed_says_so(self, at: str) -> None:
        for buffering in (0, -1):
            file = pinstripe.open(at, "w+b", buffering)
            file.close()
            file.close()
            for call in (file.read, file.tell, file.sync, lambda f=file: f.write(b"x"), file.__enter__):
                with pytest.raises(ValueError, match="closed"):
                    call()


class TestBuffers:
    def test_any_contiguous_buffer_is_written_as_its_bytes(self, at: str) -> None:
        fields = np.zeros(3, [("a", "<i2"), ("b", ">f8")])
        fields["b"] = 1.5
        grid = np.arange(6.0).reshape(2, 3)
        given = [bytearray(b"x"), memoryview(b"yz"), grid, fields, np.arange(3, dtype=">i4"), np.float64(2.5), b""]
        with pinstripe.open(at, "wb", 0) as file:
            for each in given:
                assert file.write(each) == memoryview(each).nbytes
        assert get(at) == b"".join(
            np.asarray(each).tobytes() if not isinstance(each, bytes) else each for each in given
        )

    def test_a_buffer_that_is_not_contiguous_is_refused_with_the_remedy(self, at: str) -> None:
        with pinstripe.open(at, "wb", 0) as file:
            for each in (np.arange(10)[::2], np.asfortranarray(np.ones((3, 4)))):
                with pytest.raises(ArgumentError, match="ascontiguousarray"):
                    file.write(each)
            file.write(b"ok")
        assert get(at) == b"ok"

    def test_reading_fills_any_writable_buffer(self, at: str) -> None:
        put(at, np.arange(100.0).tobytes())
        for buffering in (0, -1):
            with pinstripe.open(at, "rb", buffering) as file:
                out = np.zeros((10, 10))
                assert file.readinto(out) == 800
                assert (out.ravel() == np.arange(100.0)).all()
                assert file.readinto(out) == 0
        with pinstripe.open(at, "rb", 0) as file, pytest.raises(ArgumentError, match="read-only"):
            file.readinto(bytes(5))

    def test_the_protocol_of_a_buffered_reader_holds(self, at: str) -> None:
        lines = b"".join(b"line %d\n" % k for k in range(50_000))
        put(at, lines)
        with pinstripe.open(at, "rb") as file:
            assert file.peek(1)[:6] == b"line 0"
            assert file.readline() == b"line 0\n"
            out = bytearray(5)
            assert file.readinto1(out) == 5
            assert out == b"line "
            assert file.read1(3) == b"1\nl"
            file.seek(0)
            assert list(file) == lines.splitlines(keepends=True)
            file.seek(-10, io.SEEK_END)
            assert file.read() == lines[-10:]
            assert file.readlines() == []
            assert file.raw.readall() == b""

    def test_what_was_written_is_read_through_the_same_object(self, at: str) -> None:
        with pinstripe.open(at, "w+b") as file:
            file.write(NOISE)
            file.seek(100)
            assert file.read(50) == NOISE[100:150]
            file.write(b"between")
            assert file.tell() == 157
            file.seek(0)
            assert file.read() == NOISE[:150] + b"between" + NOISE[157:]

    def test_a_text_file_keeps_lines_encodings_and_newlines_as_open_does(self, at: str, tmp_path: Path) -> None:
        text = "".join(f"Zeile {k}: Grüße €\n" for k in range(20_000))
        for arguments in ({}, {"newline": "\r\n"}, {"newline": ""}, {"encoding": "utf-16"}, {"encoding": "latin-1"}):
            plain = text.replace("€", "E") if arguments.get("encoding") == "latin-1" else text
            for opened, path in ((pinstripe.open, at), (open, str(tmp_path / "f"))):
                given = {"encoding": "utf-8"} | arguments
                with opened(path, "w", **given) as file:
                    file.write(plain)
                    file.writelines(["a\n", "b"])
                with opened(path, "r", **given) as file:
                    assert file.readline() == plain.splitlines()[0] + (
                        arguments.get("newline", "\n") if arguments.get("newline") == "\r\n" else "\n"
                    )
                    where = file.tell()
                    rest = file.read()
                    file.seek(where)
                    assert file.read() == rest
            assert get(at) == (tmp_path / "f").read_bytes()

    def test_text_is_utf_8_wherever_it_is_written(self, at: str) -> None:
        with pinstripe.open(at, "w") as file:
            file.write("ä")
        assert get(at) == "ä".encode()

    def test_line_buffering_hands_each_line_on(self, at: str) -> None:
        with pinstripe.open(at, "w", 1) as file:
            file.write("half")
            assert file.size == 0
            file.write(" line\n")
            assert file.size == 10
            file.write("x" * 100_000)
            assert file.buffer.raw.size <= 10 + 100_000


class TestCommitting:
    def test_close_commits_and_not_before(self, at: str) -> None:
        put(at, b"old")
        file = pinstripe.open(at, "wb")
        file.write(NOISE)
        file.flush()
        assert get(at) == b"old"
        file.close()
        assert get(at) == NOISE

    def test_flush_publishes_nothing_and_sync_does(self, small: Store, at: str) -> None:
        with pinstripe.open(at, "wb") as file:
            file.write(b"one" * STRIPE)
            file.flush()
            assert not pinstripe.exists(at)
            assert file.sync() == file.generation == 1
            assert get(at) == b"one" * STRIPE
            file.write(b"two")
            file.flush()
            assert get(at) == b"one" * STRIPE
            assert file.sync() == 2
            assert file.sync() == 2, "nothing was written in between"
        assert get(at) == b"one" * STRIPE + b"two"
        assert get(at, generation=1) == b"one" * STRIPE
        assert get(at, generation=2) == get(at)

    def test_a_small_new_file_is_synced_and_then_goes_on(self, at: str) -> None:
        with pinstripe.open(at, "w") as file:
            file.write("one")
            assert file.sync() == 0
            assert get(at) == b"one"
            file.write(" two")
        assert get(at) == b"one two"
        assert get(at, generation=0) == b"one"

    @pytest.mark.parametrize("size", [10, 10 * STRIPE])
    @pytest.mark.parametrize("mode", ["wb", "r+b", "ab", "xb"])
    def test_leaving_with_by_an_exception_commits_nothing(self, small: Store, at: str, mode: str, size: int) -> None:
        if mode != "xb":
            put(at, NOISE[:100])
        before = held(small)
        with pytest.raises(KeyError):
            spoil(pinstripe.open(at, mode), NOISE[:size])
        assert held(small) == before
        assert get(at) == NOISE[:100] if mode != "xb" else not pinstripe.exists(at)

    def test_an_exception_discards_back_to_the_last_sync(self, at: str) -> None:
        with pytest.raises(KeyError):
            spoil(pinstripe.open(at, "w+b"), NOISE[:STRIPE], NOISE[:STRIPE])
        assert get(at) == NOISE[:STRIPE]

    def test_discard_publishes_nothing_and_ends_writing(self, small: Store, at: str) -> None:
        put(at, b"old")
        with pinstripe.open(at, "w+b", 0) as file:
            file.write(NOISE)
            file.discard()
            for call in (lambda: file.write(b"x"), file.sync, lambda: file.truncate(0)):
                with pytest.raises(UnsupportedError, match="given up"):
                    call()
        assert get(at) == b"old"

    @pytest.mark.parametrize("kind", ["raw", "buffered", "text"])
    def test_one_that_is_collected_unclosed_is_discarded_with_a_warning(self, small: Store, at: str, kind: str) -> None:
        put(at, b"old")
        before = held(small)
        files = [pinstripe.open(at, "w" if kind == "text" else "wb", 0 if kind == "raw" else -1)]
        files[0].write("new" if kind == "text" else b"new")
        with pytest.warns(ResourceWarning, match="not closed"):
            files.clear()
        assert get(at) == b"old"
        assert held(small) == before

    def test_one_that_was_only_read_is_collected_without_a_word(self, at: str) -> None:
        put(at, b"old")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            pinstripe.open(at, "rb").read(1)
            gc.collect()
        assert not said

    def test_mode_w_truncates_at_the_commit_and_reads_what_it_wrote(self, at: str) -> None:
        put(at, NOISE)
        with pinstripe.open(at, "w+b") as file:
            assert file.size == 0
            assert file.read() == b""
            assert get(at) == NOISE
        assert get(at) == b""

    def test_opening_for_writing_and_writing_nothing_leaves_the_generation(self, at: str) -> None:
        put(at, NOISE)
        for mode in ("r+b", "ab"):
            with pinstripe.open(at, mode) as file:
                assert file.generation == 1
        with pinstripe.open(at, "rb") as file:
            assert file.generation == 1


class TestFailing:
    @pytest.fixture(params=[errno.ENOSPC, errno.EIO])
    def broken(self, small: Store, at: str, request: pytest.FixtureRequest) -> int:
        """Both targets fail at their second write and for ever after; the file holds "old"."""
        put(at, b"old" * STRIPE)
        code: int = request.param
        wrap(small, {k: lambda inner: FailingTarget(inner, "write", 2, error=code, persistent=True) for k in (0, 1)})
        return code

    @pytest.mark.parametrize("buffering", [0, -1, 3 * STRIPE])
    def test_a_write_that_fails_within_with_commits_nothing(
        self, small: Store, at: str, broken: int, buffering: int
    ) -> None:
        with pytest.raises(TargetError) as caught:
            spoil(pinstripe.open(at, "r+b", buffering), NOISE)
        assert caught.value.errno == broken
        assert get(at) == b"old" * STRIPE
        assert not list(Path(small.meta).glob("files/*/*/*.tx"))

    def test_a_flush_that_fails_in_close_commits_nothing_and_says_so(self, at: str, broken: int) -> None:
        file = pinstripe.open(at, "wb", 20 * STRIPE)
        file.write(NOISE)
        with pytest.raises(TargetError) as caught:
            file.close()
        assert caught.value.errno == broken
        assert file.closed
        assert get(at) == b"old" * STRIPE

    def test_an_error_that_was_swallowed_is_met_again_at_close(self, at: str, broken: int) -> None:
        file = pinstripe.open(at, "wb", 0)
        with pytest.raises(TargetError):
            file.write(NOISE)
        for call in (lambda: file.write(b"x"), file.sync, lambda: file.truncate(0), file.close):
            with pytest.raises(OSError, match="nothing was published") as caught:
                call()
            assert caught.value.errno == broken
        assert file.closed
        assert get(at) == b"old" * STRIPE

    def test_a_buffered_error_that_was_swallowed_is_met_again_at_close(self, at: str, broken: int) -> None:
        file = pinstripe.open(at, "wb")
        with pytest.raises(TargetError):
            file.write(NOISE)
        with pytest.raises(OSError, match="nothing was published"):
            file.close()
        assert get(at) == b"old" * STRIPE

    def test_a_commit_that_fails_is_an_error_of_close_and_of_sync(self, small: Store, at: str) -> None:
        put(at, b"old" * STRIPE)
        for end in ("close", "sync"):
            wrap(small, {k: lambda inner: FailingTarget(inner, "create_segment", persistent=True) for k in (0, 1)})
            file = pinstripe.open(at, "r+b")
            file.write(b"x")
            with pytest.raises(TargetError):
                getattr(file, end)()
            if end == "sync":
                file.discard()
                file.close()
            assert get(at) == b"old" * STRIPE


class TestProcessesAndThreads:
    @staticmethod
    def in_child(work: Callable[[], None]) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    @pytest.mark.parametrize("kind", ["raw", "buffered", "text", "reader"])
    def test_in_a_forked_child_every_call_raises_and_closing_does_nothing(
        self, small: Store, at: str, kind: str
    ) -> None:
        put(at, b"old" * STRIPE)
        mode = {"text": "w+", "reader": "rb"}.get(kind, "w+b")
        file = pinstripe.open(at, mode, 0 if kind == "raw" else -1)
        data: Any = "new" if kind == "text" else b"new"
        if kind != "reader":
            file.write(data)

        def work() -> None:
            calls: list[Callable[[], object]] = [file.read, file.tell, lambda: file.seek(0)]
            if kind != "reader":
                calls += [lambda: file.write(data), file.sync, lambda: file.truncate(0), file.flush]
            for call in calls:
                with pytest.raises(ForkedError, match="open it anew"):
                    call()
            file.close()
            file.close()

        self.in_child(work)
        if kind == "reader":
            assert file.read(3) == b"old"
        else:
            file.write(data)
        file.close()
        assert get(at) == (b"old" * STRIPE if kind == "reader" else b"newnew")

    def test_collecting_and_leaving_with_in_a_child_touch_nothing(self, small: Store, at: str) -> None:
        with pinstripe.open(at, "wb") as file:
            file.write(NOISE)
            holder = [pinstripe.open(f"{small.root}/g", "wb", 0)]
            holder[0].write(NOISE)

            def work() -> None:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    holder.clear()
                    gc.collect()
                    with pytest.raises(KeyError), file_in_child():
                        raise KeyError

            def file_in_child() -> Any:
                class Leaves:
                    def __enter__(self) -> None: ...
                    def __exit__(self, *error: Any) -> None:
                        file.__exit__(*error)

                return Leaves()

            self.in_child(work)
            holder[0].close()
        assert get(at) == NOISE
        assert get(f"{small.root}/g") == NOISE

    def test_a_child_that_ends_as_python_does_leaves_the_parents_work_alone(self, at: str) -> None:
        with pinstripe.open(at, "wb") as file:
            file.write(NOISE)
            import multiprocessing

            child = multiprocessing.get_context("fork").Process(target=len, args=("",))
            child.start()
            child.join()
            assert child.exitcode == 0
        assert get(at) == NOISE

    def test_eight_threads_read_one_file_at_once(self, at: str) -> None:
        put(at, NOISE)
        with pinstripe.open(at, "rb", 0) as file, ThreadPoolExecutor(8) as pool:

            def check(seed: int) -> bool:
                draw = np.random.default_rng(seed)
                for _ in range(60):
                    offset, count = int(draw.integers(0, len(NOISE))), int(draw.integers(1, 3 * STRIPE))
                    if file.pread(count, offset) != NOISE[offset : offset + count]:
                        return False
                return True

            assert all(pool.map(check, range(8)))

    def test_threads_that_write_one_file_do_not_disturb_each_other(self, at: str) -> None:
        size = 100_000
        with pinstripe.open(at, "wb", 0) as file:
            file.truncate(8 * size)

            def work(k: int) -> None:
                for begin in range(0, size, 1000):
                    file.pwrite(bytes([k + 1]) * 1000, k * size + begin)

            threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert get(at) == b"".join(bytes([k + 1]) * size for k in range(8))

    @pytest.mark.parametrize("kind", ["raw", "buffered", "text"])
    def test_an_open_file_is_neither_pickled_nor_copied(self, at: str, kind: str) -> None:
        with pinstripe.open(at, "w" if kind == "text" else "wb", 0 if kind == "raw" else -1) as file:
            for work in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="cannot pickle"):
                    work(file)


class TestOtherPeoplesCode:
    def test_copyfileobj_copies_in_and_out(self, at: str, tmp_path: Path) -> None:
        (tmp_path / "in").write_bytes(NOISE)
        with open(tmp_path / "in", "rb") as source, pinstripe.open(at, "wb") as file:
            shutil.copyfileobj(source, file)
        with pinstripe.open(at, "rb") as file, open(tmp_path / "out", "wb") as out:
            shutil.copyfileobj(file, out)
        assert (tmp_path / "out").read_bytes() == NOISE

    def test_numpy_saves_and_loads(self, at: str) -> None:
        array = np.random.default_rng(2).random((50, 70, 11))
        with pinstripe.open(at, "wb") as file:
            np.save(file, array)
        with pinstripe.open(at, "rb") as file:
            assert (np.load(file) == array).all()
        assert (np.frombuffer(get(at)[-array.nbytes :]) == array.ravel()).all()

    def test_json_and_pickle_are_dumped_and_loaded(self, at: str) -> None:
        value = {"a": list(range(50_000)), "b": "ü" * 10}
        with pinstripe.open(at, "w") as file:
            json.dump(value, file)
        with pinstripe.open(at) as file:
            assert json.load(file) == value
        with pinstripe.open(at, "wb") as file:
            pickle.dump(value, file)
        with pinstripe.open(at, "rb") as file:
            assert pickle.load(file) == value

    def test_archives_are_written_read_and_appended_to(self, at: str) -> None:
        with pinstripe.open(at, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", NOISE)
        with pinstripe.open(at, "r+b") as file, zipfile.ZipFile(file, "a") as archive:
            archive.writestr("b", b"more")
        with pinstripe.open(at, "rb") as file, zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
            assert (archive.read("a"), archive.read("b")) == (NOISE, b"more")
        for compression in ("", "gz"):
            with pinstripe.open(at, "wb") as file, tarfile.open(fileobj=file, mode=f"w:{compression}") as tar:
                info = tarfile.TarInfo("a")
                info.size = len(NOISE)
                tar.addfile(info, io.BytesIO(NOISE))
            with pinstripe.open(at, "rb") as file, tarfile.open(fileobj=file) as tar:
                found = tar.extractfile("a")
                assert found is not None
                assert found.read() == NOISE


class TestSizes:
    @pytest.mark.parametrize("stripes", [0, 1, 2, 5])
    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_the_end_is_exact_at_and_beside_each_stripe(self, at: str, stripes: int, more: int) -> None:
        size = max(0, stripes * STRIPE + more)
        put(at, NOISE[:size], inline_bytes=0)
        assert pinstripe.stat(at).st_size == size
        with pinstripe.open(at, "rb", 0) as file:
            assert file.pread(1 << 20, 0) == NOISE[:size]
            assert file.pread(10, size) == b""
            assert file.pread(10, max(0, size - 1)) == NOISE[max(0, size - 1) : size]
            file.seek(size + 5)
            assert file.read() == b""

    def test_a_file_of_no_bytes_is_a_file(self, at: str) -> None:
        for options in ({}, {"inline_bytes": 0}):
            put(at, b"", **options)
            assert (get(at), pinstripe.stat(at).st_size) == (b"", 0)
            put(at, NOISE)
            put(at, b"")
            assert get(at) == b""
            pinstripe.remove(at)

    @pytest.mark.parametrize("offset", [5 << 30, 1 << 40])
    def test_holes_cost_nothing_however_large(self, small: Store, at: str, offset: int) -> None:
        with pinstripe.open(at, "wb", 0) as file:
            file.pwrite(b"begin", 0)
            file.pwrite(b"end", offset)
        assert pinstripe.stat(at).st_size == offset + 3
        assert sum(stored(small)) < 100_000
        with pinstripe.open(at, "r+b", 0) as file:
            assert file.pread(10, offset - 5) == bytes(5) + b"end"
            assert file.pread(5, 0) == b"begin"
            assert not any(file.pread(1 << 20, offset // 2 + 17))
            file.pwrite(b"middle", offset // 2)
        with pinstripe.open(at, "rb") as file:
            file.seek(offset // 2 - 1)
            assert file.read(8) == b"\0middle\0"

    def test_what_truncation_cuts_off_never_comes_back(self, small: Store, at: str) -> None:
        for buffering in (0, -1):
            put(at, NOISE)
            with pinstripe.open(at, "r+b", buffering) as file:
                file.truncate(STRIPE + 10)
                file.truncate(8 * STRIPE)
                assert file.size == 8 * STRIPE
                file.seek(0)
                assert file.read() == NOISE[: STRIPE + 10] + bytes(7 * STRIPE - 10)
            assert get(at) == NOISE[: STRIPE + 10] + bytes(7 * STRIPE - 10)

    def test_extending_costs_nothing(self, small: Store, at: str) -> None:
        put(at, NOISE)
        before = sum(stored(small))
        with pinstripe.open(at, "r+b") as file:
            file.truncate(1 << 36)
        assert sum(stored(small)) < before + 50_000
        assert pinstripe.stat(at).st_size == 1 << 36
        with pinstripe.open(at, "rb", 0) as file:
            assert file.pread(20, len(NOISE) - 10) == NOISE[-10:] + bytes(10)

    def test_stored_bytes_follow_the_data(self, small: Store, at: str) -> None:
        put(at, b"text " * 100_000)
        assert pinstripe.stat(at).st_blocks * 512 < 50_000
        put(at, NOISE)
        assert len(NOISE) <= pinstripe.stat(at).st_blocks * 512 < len(NOISE) * 1.02 + 4096


def stored(store: Store) -> list[int]:
    """Bytes that each target really holds, as du counts them, but for manifest copies."""
    return [
        sum(path.stat().st_blocks * 512 for path in Path(target.path).glob("??/*/*") if path.suffix != ".manifest")
        for target in store.targets
    ]


def test_the_generations_of_a_file_are_read_by_number_and_by_word(small: Store, at: str) -> None:
    for k in range(1, 4):
        put(at, bytes([k]) * STRIPE * 2, durability="full" if k < 3 else "none")
    inode, _ = read_inode(at)
    assert list_numbers(small.file_directory(inode.file_id)) == [1, 2, 3]
    assert [get(at, generation=k)[:1] for k in (1, 2, 3)] == [b"\1", b"\2", b"\3"]
    assert get(at, generation="2") == get(at, generation="durable") == b"\2" * STRIPE * 2
    with pytest.raises(FileNotFoundError, match=r"no generation 4 \(it has 1, 2, 3\)"):
        pinstripe.open(at, generation=4)
    with pytest.raises(FileNotFoundError, match="no transaction"):
        pinstripe.open(at, generation="ab" * 16)
    assert isinstance(Generation.head(small, inode, at), Generation)


def test_a_buffered_file_is_one_of_three_kinds(at: str) -> None:
    with pinstripe.open(at, "wb") as file:
        assert isinstance(file, BufferedFile)
