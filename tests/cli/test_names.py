"""ls, rm, mv, mkdir, chmod."""

import os
from pathlib import Path

import pytest

import pinstripe
from pinstripe.cli.output import size_text
from pinstripe.cli.words import parse_mode
from pinstripe.errors import ArgumentError
from pinstripe.store.store import Store

from .conftest import Run, Write


@pytest.fixture
def tree(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "-p", "s/a/b")
    for name, data in (("s/a/x", b"x" * 1000), ("s/a/b/y", os.urandom(2_000_000)), ("s/z", b"")):
        run("cp", str(write("data", data)), name)
    pinstripe.symlink("x", "s/a/link")


class TestLs:
    def test_names_are_listed_one_a_line(self, run: Run, tree: None) -> None:
        assert run("ls", "s") == "a\nz\n"
        assert run("ls", "s/a") == "b\nlink\nx\n"
        assert run("ls", "s/z", "s/a/x") == "s/z\ns/a/x\n"
        assert run("ls", "-d", "s/a") == "s/a\n"

    def test_the_working_directory_is_listed_without_arguments(self, run: Run, tree: None) -> None:
        os.chdir("s/a/b")
        assert run("ls") == "y\n"

    def test_a_long_line_has_mode_owner_sizes_and_time(self, run: Run, tree: None) -> None:
        line = run("ls", "-l", "s/a/x").split()
        assert line[0].startswith("-rw")
        assert line[3:5] == ["1000", "1024"]
        assert line[-1] == "s/a/x"
        link = next(line for line in run("ls", "-l", "s/a").splitlines() if line.startswith("l"))
        assert link.endswith("link -> x")

    def test_recursion_names_each_directory(self, run: Run, tree: None) -> None:
        assert run("ls", "-R", "s") == "s:\na\nz\n\ns/a:\nb\nlink\nx\n\ns/a/b:\ny\n"

    def test_json_tells_all(self, run: Run, tree: None) -> None:
        found = {item["path"]: item for item in run.json("ls", "-R", "s")}
        assert set(found) == {"s/a", "s/z", "s/a/b", "s/a/x", "s/a/link", "s/a/b/y"}
        assert found["s/a/b/y"]["size"] == 2_000_000
        assert found["s/a/b/y"]["type"] == "file"
        assert found["s/a/link"]["link"] == "x"
        assert "size" not in found["s/a"]

    def test_a_file_that_cannot_be_read_does_not_hide_the_others(self, run: Run, tree: None) -> None:
        Path("s/a/foreign").write_text("hello")
        result = run.result("ls", "-l", "s/a")
        assert result.exit_code == 1
        assert "pinstripe cp" in result.stderr
        assert "foreign" in result.stdout
        assert "1000" in result.stdout
        assert run("ls", "s/a").split() == ["b", "foreign", "link", "x"]


class TestRm:
    def test_files_go_and_free_what_they_took(self, run: Run, tree: None, store: Store) -> None:
        run("rm", "s/a/b/y", "s/z")
        assert not any(list(target.list_files()) for target in store.targets)

    def test_a_directory_needs_r(self, run: Run, tree: None, store: Store) -> None:
        assert "-r removes it" in run.fails("rm", "s/a")
        assert "removed s/a/b/y" in run("rm", "-rv", "s/a")
        assert run("ls", "s") == "z\n"

    def test_what_is_missing_is_an_error_unless_forced(self, run: Run, tree: None) -> None:
        assert "No such file" in run.fails("rm", "s/missing", "s/z")
        assert run("ls", "s") == "a\n"
        run("rm", "-f", "s/missing")

    def test_the_store_itself_is_not_removed(self, run: Run, tree: None) -> None:
        assert "pinstripe destroy" in run.fails("rm", "-r", "s")
        assert run("ls", "s") == "a\nz\n"


class TestMv:
    def test_a_file_replaces_another_in_one_step(self, run: Run, tree: None, store: Store) -> None:
        run("mv", "s/a/x", "s/a/b/y")
        assert run("cat", "s/a/b/y") == "x" * 1000
        assert not any(list(target.list_files()) for target in store.targets)

    def test_names_move_into_a_directory(self, run: Run, tree: None) -> None:
        run("mv", "s/z", "s/a/x", "s/a/b")
        assert run("ls", "s/a/b") == "x\ny\nz\n"

    def test_n_replaces_nothing(self, run: Run, tree: None) -> None:
        assert "is there already" in run.fails("mv", "-n", "s/z", "s/a/x")
        run("mv", "-n", "s/z", "s/new")

    def test_several_need_a_directory(self, run: Run, tree: None) -> None:
        run.fails("mv", "s/z", "s/a", "s/nothing", code=2)

    def test_another_store_is_refused_with_the_remedy(self, run: Run, tree: None) -> None:
        run("create", "s2", "--target", "t9")
        assert "pinstripe cp" in run.fails("mv", "s/z", "s2/z")


def test_mkdir_makes_directories(run: Run, store: Store) -> None:
    run("mkdir", "s/a")
    run.fails("mkdir", "s/a")
    run("mkdir", "-p", "s/a", "s/b/c")
    run("mkdir", "-m", "700", "s/d")
    assert os.stat("s/d").st_mode & 0o777 == 0o700
    run.fails("mkdir", "s/x/y")


class TestChmod:
    def test_it_changes_name_and_what_holds_the_data(self, run: Run, tree: None, store: Store) -> None:
        run("chmod", "600", "s/a/b/y")
        file_id = run.json("stat", "s/a/b/y")["id"]
        for parent in (f"{store.meta}/files", *(target.path for target in store.targets)):
            directory = f"{parent}/{file_id[:2]}/{file_id}"
            if os.path.exists(directory):
                assert os.stat(directory).st_mode & 0o777 == 0o700

    def test_symbolic_and_recursive(self, run: Run, tree: None) -> None:
        run("chmod", "-R", "go-rwx", "s/a")
        for path in ("s/a", "s/a/b", "s/a/x", "s/a/b/y"):
            assert os.stat(path).st_mode & 0o077 == 0
        run("chmod", "g+r,o=r", "s/a/x")
        assert os.stat("s/a/x").st_mode & 0o777 == 0o644
        run("chmod", "-w", "s/a/x")
        assert os.stat("s/a/x").st_mode & 0o222 == 0

    def test_what_is_no_mode_changes_nothing(self, run: Run, tree: None) -> None:
        assert "is not a mode" in run.fails("chmod", "u+q", "s/a/x", code=2)

    @pytest.mark.parametrize(
        ("text", "present", "wanted"),
        [("u+x", 0o644, 0o744), ("a=r", 0o755, 0o444), ("+X", 0o644, 0o644), ("+X", 0o744, 0o755), ("g+s", 0o755, 0o2755),
         ("+t", 0o755, 0o1755), ("ug-w,o+r", 0o660, 0o444), ("2775", 0, 0o2775)],
    )  # fmt: skip
    def test_modes_are_read_as_chmod_reads_them(self, text: str, present: int, wanted: int) -> None:
        assert oct(parse_mode(text, present, False)) == oct(wanted)

    def test_capital_x_makes_directories_searchable(self) -> None:
        assert parse_mode("a+X", 0o644, True) == 0o755
        with pytest.raises(ArgumentError):
            parse_mode("", 0, False)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (10 * 1024, "10K"),
        (1 << 20, "1.0M"),
        ((1 << 20) - 1, "1.0M"),
        (3 << 39, "1.5T"),
    ],
)
def test_sizes_are_written_short(size: int, text: str) -> None:
    assert size_text(size) == text
