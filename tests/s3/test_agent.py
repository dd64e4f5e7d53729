"""The agent: one a store, coalescing, holding writers back, and ending cleanly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pinstripe
from pinstripe.cli import cli
from pinstripe.errors import ArgumentError, ConflictError, NoStoreError
from pinstripe.format.remote import Endpoint
from pinstripe.s3.agent import Agent, Round, dirty_bytes, wait_for_export
from pinstripe.s3.agent_lock import AgentLock
from pinstripe.s3.links import unlink
from pinstripe.store.store import Store
from pinstripe.store.writer_identity import this_writer
from pinstripe.testing.s3_faults import Fault, FaultProxy

from .stepping import Pair

OLD, NEW = b"old" * 30_000, b"new" * 40_000
WAIT_S = 60.0


@pytest.fixture
def pair(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> Pair:
    return Pair(store, client, bucket, endpoint)


def until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


class Running:
    """An agent in a thread of this process."""

    def __init__(self, pair: Pair, **options: Any) -> None:
        self.rounds: list[Round] = []
        self.error: BaseException | None = None
        self.agent = Agent(pair.store.root, **({"interval_s": 0.2} | options), on_round=self.rounds.append)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.agent.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@pytest.fixture
def spawn(pair: Pair, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `pinstripe agent` as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def spawn(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pinstripe", "agent", pair.store.root, "--interval", "0.2", *args]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(process)
        return process

    yield spawn
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def holder_pid(pair: Pair) -> int:
    holder = AgentLock(pair.store).holder()
    return holder.pid if holder is not None else 0


# --- both ways ---------------------------------------------------------------------------------------------------------


def test_it_carries_over_what_changes_on_both_sides(pair: Pair) -> None:
    pair.link()
    with Running(pair) as running:
        pair.write("a", OLD)
        pair.put("b", NEW)
        until(lambda: pair.there() == {"a": OLD, "b": NEW} and pair.here() == ["a", "b"])
        pair.remove("a")
        pair.delete("b")
        until(lambda: pair.there() == {} and pair.here() == [])
    assert sum(one.step.deleted for one in running.rounds) == 1
    assert sum(one.step.exported_bytes for one in running.rounds) == len(OLD)


def test_two_writes_within_the_quiet_time_go_up_once(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link(quiet_s=2.0)
    with Running(pair) as running:
        until(lambda: running.rounds)
        pair.write("a", OLD)
        until(lambda: running.rounds[-1].step.dirty_bytes == len(OLD))
        pair.write("a", NEW)
        until(lambda: pair.there() == {"a": NEW})
        before = len(running.rounds)
        until(lambda: len(running.rounds) > before + 3)
    assert proxy.count("PUT", r"/p/a$") == 1


def test_links_are_listed_as_often_as_they_say_and_files_looked_at_in_between(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link(poll_s=3600.0)
    with Running(pair, interval_s=None) as running:
        until(lambda: running.rounds)
        pair.put("b", NEW)
        pair.write("a", OLD)
        until(lambda: "a" in pair.there())
        assert pair.here() == ["a"]
    assert [one.listed for one in running.rounds][:2] == [1, 0]


def test_a_hint_has_its_link_listed_now(pair: Pair, bucket: str) -> None:
    pair.link(poll_s=3600.0)
    wanted = threading.Event()

    def hints() -> Iterator[list[str]]:
        while True:
            yield [f"s3://{bucket}/p/b", "s3://another/x"] if wanted.is_set() else []

    with Running(pair, interval_s=None, hints=hints()) as running:
        until(lambda: len(running.rounds) > 1)
        pair.put("b", NEW)
        before = len(running.rounds)
        until(lambda: len(running.rounds) > before + 1)
        assert pair.here() == []
        wanted.set()
        until(lambda: pair.here() == ["b"])


def test_hints_may_end(pair: Pair) -> None:
    pair.link()
    with Running(pair, hints=iter([["s3://x/y"]])) as running:
        until(lambda: len(running.rounds) > 2)


def test_links_that_come_and_go_are_seen(pair: Pair) -> None:
    with Running(pair) as running:
        until(lambda: running.rounds)
        pair.link()
        pair.write("a", OLD)
        until(lambda: "a" in pair.there())
        unlink(pair.directory)
        until(lambda: running.rounds[-1].links == 0)


def test_a_bucket_that_fails_for_a_while_does_not_end_it(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link()
    proxy.add(Fault("GET", "list-type=2", "403", 2))
    with Running(pair) as running:
        until(lambda: any(one.step.failed for one in running.rounds))
        pair.put("b", NEW)
        until(lambda: pair.here() == ["b"])


def test_a_store_that_is_gone_ends_it(pair: Pair) -> None:
    pair.link()
    agent = Agent(pair.store.root, interval_s=0.2)
    os.rename(pair.store.root, f"{pair.store.root}-elsewhere")
    with pytest.raises((NoStoreError, FileNotFoundError)):
        agent.run()


# --- one a store -------------------------------------------------------------------------------------------------------


def test_a_second_one_is_refused_with_a_word_about_the_first(pair: Pair) -> None:
    pair.link()
    with Running(pair) as running:
        until(lambda: running.rounds)
        with pytest.raises(ConflictError, match=f"looked after already, by process {os.getpid()} on"):
            Agent(pair.store.root).run(once=True)
        done = CliRunner().invoke(cli, ["agent", pair.store.root, "--once"])
        assert done.exit_code == 3
        assert f"process {os.getpid()}" in done.stderr
        assert len(done.stderr.splitlines()) == 2
    assert not os.path.exists(AgentLock(pair.store).path)
    assert Agent(pair.store.root).run(once=True).exit_code == 0


def test_a_killed_one_is_taken_over(pair: Pair, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    pair.link()
    first = spawn()
    until(lambda: holder_pid(pair) == first.pid, "the first")
    pair.write("a", OLD)
    until(lambda: "a" in pair.there())
    first.kill()
    first.wait()
    assert os.path.exists(AgentLock(pair.store).path)
    second = spawn()
    until(lambda: holder_pid(pair) == second.pid, "the second")
    pair.remove("a")
    until(lambda: pair.there() == {})
    second.send_signal(signal.SIGTERM)
    assert second.wait(WAIT_S) == 0
    assert not os.path.exists(AgentLock(pair.store).path)


def test_one_on_another_host_counts_as_alive(pair: Pair) -> None:
    lock = AgentLock(pair.store)
    lock.take()
    other = dataclasses.replace(this_writer(), host="elsewhere", boot="another", pid=1)
    Path(lock.path).write_bytes(other.encode() + Path(lock.path).read_bytes()[1024:])
    with pytest.raises(ConflictError, match="process 1 on elsewhere"):
        AgentLock(pair.store).take()
    lock.leave()


def test_one_that_was_taken_over_ends(pair: Pair) -> None:
    pair.link()
    other = AgentLock(pair.store)
    with Running(pair) as running:
        until(lambda: running.rounds)
        os.unlink(other.path)
        other.take()
        until(lambda: running.error)
        assert isinstance(running.error, ConflictError)
        assert "took this store over" in str(running.error)
        running.error = None
    other.check()
    other.leave()


def test_a_torn_lock_is_not_taken_for_a_dead_ones(pair: Pair) -> None:
    lock = AgentLock(pair.store)
    lock.take()
    Path(lock.path).write_bytes(b"{".ljust(1024, b"\0") + Path(lock.path).read_bytes()[1024:])
    with pytest.raises(ConflictError, match="does not name"):
        AgentLock(pair.store).take()
    lock.leave()


# --- ending ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_it_waits(
    pair: Pair, spawn: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    pair.link()
    pair.write("a", OLD)
    agent = spawn("--interval", "1h")
    assert agent.stdout is not None
    said = agent.stdout.readline()
    agent.send_signal(number)
    _, err = agent.communicate(timeout=WAIT_S)
    assert agent.returncode == 0, err
    assert said.startswith("round 1: 1 exported (88K)")
    assert "Traceback" not in err


def test_a_signal_ends_it_in_the_middle_of_an_upload(
    pair: Pair, proxy: FaultProxy, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link()
    pair.write("a", OLD)
    pair.sync()
    pair.write("b", NEW)
    proxy.add(Fault("PUT", "/p/b", "hold", 1))
    agent = spawn()
    until(lambda: proxy.count("PUT", "/p/b"), "the upload")
    agent.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    proxy.release()
    _, err = agent.communicate(timeout=WAIT_S)
    assert agent.returncode == 0, err
    assert "Traceback" not in err
    assert not os.path.exists(AgentLock(pair.store).path)
    pair.sync()
    assert pair.there() == {"a": OLD, "b": NEW}


def test_json_says_a_line_a_round(pair: Pair) -> None:
    pair.link()
    pair.write("a", OLD)
    done = CliRunner().invoke(cli, ["agent", pair.store.root, "--once", "--json"])
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["round"], last["exported"], last["exported_bytes"]) == ("round", 1, 1, len(OLD))
    pair.write("a", NEW)
    pair.put("a", b"x" * 99)
    done = CliRunner().invoke(cli, ["agent", pair.store.root, "--once"])
    assert done.exit_code == 3
    assert "1 in conflict" in done.stdout


def test_what_fails_is_told_once(pair: Pair, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    pair.link()
    pair.put("x", OLD)
    pair.put("x/y", NEW)
    agent = spawn()
    for name in ("a", "b", "c"):  # one round each, at least
        pair.write(name, OLD)
        until(lambda name=name: name in pair.there())  # type: ignore[misc]
    agent.send_signal(signal.SIGINT)
    _, err = agent.communicate(timeout=WAIT_S)
    assert err.count("S3ObjectTypeMismatch") == 1, err


# --- writers that wait -----------------------------------------------------------------------------------------------


def test_writers_can_wait_for_the_export(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link(quiet_s=3600.0)
    assert wait_for_export(pair.store.root, 0)
    with Running(pair) as running:
        pair.write("a", OLD)
        until(lambda: running.rounds and running.rounds[-1].step.dirty_bytes)
        assert dirty_bytes(pair.store.root) == len(OLD)
        assert wait_for_export(pair.store.root, len(OLD))
        with pytest.raises(TimeoutError, match="wait for their export"):
            wait_for_export(pair.store.root, len(OLD) - 1, timeout_s=0.3)
        pair.link(quiet_s=0.0)
        assert wait_for_export(pair.store.root, 0)
        assert pair.there() == {"a": OLD}
    assert dirty_bytes(pair.directory) == 0


def test_the_bound_is_what_the_links_say(pair: Pair) -> None:
    pair.link(quiet_s=3600.0)
    pair.write("a", OLD)
    Agent(pair.store.root).run(once=True)
    assert wait_for_export(pair.store.root)
    assert dirty_bytes(pair.store.root) == len(OLD)
    pair.link(quiet_s=3600.0, max_dirty=len(OLD) - 1)
    with Running(pair) as running:
        until(lambda: running.rounds)
        assert wait_for_export(pair.store.root)
    assert pair.there() == {"a": OLD}


def test_nobody_waits_where_no_agent_lives(pair: Pair) -> None:
    pair.link(quiet_s=3600.0)
    pair.write("a", OLD)
    Agent(pair.store.root).run(once=True)
    assert not wait_for_export(pair.store.root, 0)


def test_bad_arguments(pair: Pair) -> None:
    with pytest.raises(ArgumentError, match="interval_s"):
        Agent(pair.store.root, interval_s=0)
    with pytest.raises(ArgumentError, match="max_dirty"):
        wait_for_export(pair.store.root, -1)
    with pytest.raises(NoStoreError):
        Agent(Path(pair.store.root).parent)
    assert pinstripe.exists(pair.store.root)
