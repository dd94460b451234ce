"""Clients and real sidecars that are killed, stopped, restarted and cut off: every result once, in order."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_llm_client import (
    AsyncBatchClient,
    BatchClient,
    BatchLostError,
    BatchState,
    ResumePolicy,
    WorkItem,
)

from .conftest import BIN, SIMULATED, SidecarProcess, Start, script

WAIT = 60
CONCURRENCY = 8
CONFIG = (
    SIMULATED
    + f"""
[strategies.narrow]
provider = "simulated"
max_concurrency = {CONCURRENCY}
"""
)
# A restart takes as long as it takes: many tries, each soon.
PATIENT = ResumePolicy(max_tries=1000, initial_backoff_seconds=0.05, max_backoff_seconds=0.2)


def work(count: int, latency_ms: int = 10) -> list[WorkItem]:
    return [
        WorkItem(f"{n}", script(latency_ms=latency_ms, reply=f"answer {n}"), strategy="narrow") for n in range(count)
    ]


@dataclass
class Home:
    """A sidecar on a state directory and a socket, to be ended and started again."""

    start: Start
    folder: Path
    config: str = CONFIG
    process: SidecarProcess | None = None

    @property
    def target(self) -> str:
        return f"unix:{self.folder}/s.sock"

    def up(self) -> None:
        arguments = ("--listen", self.target, "--state-dir", str(self.folder / "state"))
        self.process = self.start(*arguments, config=self.config)
        self.process.wait_for("serving on")

    def restart(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.stop(number)
        self.up()


@pytest.fixture
def home(start: Start, tmp_path: Path) -> Home:
    home = Home(start, tmp_path)
    home.up()
    return home


@dataclass
class Seen:
    """Results as a client hands them out."""

    sequences: list[int]
    texts: dict[str, str | None]
    marked: int = 0

    @classmethod
    def none(cls) -> Seen:
        return cls([], {})

    def add(self, result) -> None:
        self.sequences.append(result.sequence)
        assert result.item_id not in self.texts
        self.texts[result.item_id] = result.text
        self.marked += result.maybe_billed

    def check(self, count: int) -> None:
        assert self.sequences == list(range(1, count + 1))
        assert self.texts == {str(n): f"answer {n}" for n in range(count)}


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sidecar_that_ends_in_mid_batch(home: Home, number: signal.Signals) -> None:
    seen, ends = Seen.none(), {20, 90, 150} if number == signal.SIGKILL else {50}
    with BatchClient(home.target, resume_policy=PATIENT) as client, client.process_batch(work(200)) as batch:
        for result in batch:
            seen.add(result)
            if result.sequence in ends:
                in_background(lambda: home.restart(number)).join(WAIT)
        assert batch.totals.succeeded == 200
    seen.check(200)
    assert seen.marked <= (3 * CONCURRENCY if number == signal.SIGKILL else 0)


async def test_a_sidecar_that_is_killed_in_mid_batch_async(home: Home) -> None:
    seen, ends = Seen.none(), {20, 90, 150}

    async def source():
        for item in work(200):
            yield item

    async with (
        AsyncBatchClient(home.target, resume_policy=PATIENT) as client,
        client.process_batch(source()) as batch,
    ):
        async for result in batch:
            seen.add(result)
            if result.sequence in ends:
                await asyncio.to_thread(home.restart)
        assert batch.totals.succeeded == 200
    seen.check(200)
    assert seen.marked <= 3 * CONCURRENCY


def test_a_sidecar_that_is_killed_while_items_are_sent(home: Home) -> None:
    seen = Seen.none()
    killed = threading.Event()

    def source() -> Iterator[WorkItem]:
        for n, item in enumerate(work(3000, latency_ms=0)):
            if n == 1500:
                home.restart()
                killed.set()
            yield item

    with BatchClient(home.target, resume_policy=PATIENT, unconfirmed_items=300) as client:
        for result in client.process_batch(source()):
            seen.add(result)
    assert killed.is_set()
    seen.check(3000)


def test_a_slow_reader(home: Home) -> None:
    seen = Seen.none()
    with BatchClient(home.target, resume_policy=PATIENT) as client, client.process_batch(work(2000, 0)) as batch:
        seen.add(next(batch))
        # The sidecar runs far ahead of a client that reads nothing, then ends.
        with BatchClient(home.target) as other:
            while other.get_batch(batch.batch_id).done < 500:
                pass
        home.restart()
        for result in batch:
            seen.add(result)
    seen.check(2000)


def test_a_journal_in_memory_is_lost_with_its_sidecar(start: Start, tmp_path: Path) -> None:
    home = Home(start, tmp_path, CONFIG + '[journal]\nurl = "memory"\n')
    home.up()
    # The batch cannot end before its sidecar does.
    items = [*work(20), WorkItem("endless", script(latency_ms=600_000), strategy="narrow")]
    with BatchClient(home.target, resume_policy=PATIENT) as client, client.process_batch(items) as batch:
        assert not batch.opened.durable
        with pytest.raises(BatchLostError, match="in memory") as lost:
            for result in batch:
                if result.sequence == 10:
                    home.restart()
    assert lost.value.last_sequence >= 10


class Proxy:
    """A TCP proxy that can reset all connections, as a network does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self.path))
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def reset(self) -> None:
        self.resets += 1
        pairs, self._pairs = self._pairs, []
        for near, far in pairs:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for end in (near, far):
                _close(end)

    def close(self) -> None:
        _close(self._listener)
        self.reset()


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(home: Home) -> Iterator[Proxy]:
    proxy = Proxy(home.folder / "s.sock")
    yield proxy
    proxy.close()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_network_that_resets(home: Home, proxy: Proxy, lazy: bool) -> None:
    seen = Seen.none()
    lots = random.Random(7)
    items = work(1500, latency_ms=1)
    with BatchClient(proxy.target, resume_policy=PATIENT, unconfirmed_items=200) as client:
        batch = client.process_batch(iter(items) if lazy else items)
        for result in batch:
            seen.add(result)
            if lots.random() < 0.01:
                proxy.reset()
    seen.check(1500)
    assert proxy.resets > 5
    assert seen.marked == 0  # the sidecar never died


async def test_a_network_that_resets_async(home: Home, proxy: Proxy) -> None:
    seen = Seen.none()
    lots = random.Random(8)
    async with AsyncBatchClient(proxy.target, resume_policy=PATIENT, unconfirmed_items=200) as client:
        async for result in client.process_batch(work(1500, latency_ms=1)):
            seen.add(result)
            if lots.random() < 0.01:
                proxy.reset()
    seen.check(1500)
    assert proxy.resets > 5
    assert seen.marked == 0


def run_command(home: Home, *arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [str(BIN / "batch-llm"), "--target", home.target, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload, no-any-return]


def wait_for_lines(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a command has written so many."""
    while True:
        ended = process.poll()  # before the file is read: what it wrote as it ended counts
        if out.exists() and out.read_text().count("\n") >= count:
            return
        assert ended is None, f"it ended with {ended}"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": item.item_id, "prompt": item.prompt}) for item in work(300)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_client_that_is_killed_again_and_again(home: Home, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("run", rows, "--strategy", "narrow", "--batch-id", "b", "--resume", "--out", out, "--quiet")
    for kept in (30, 110, 200):
        with run_command(home, *arguments) as process:
            wait_for_lines(out, kept, process)
            process.kill()
    with run_command(home, *arguments) as process:
        assert process.wait(WAIT) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, 301))
    assert {line["item_id"]: line["text"] for line in lines} == {str(n): f"answer {n}" for n in range(300)}
    assert not any("maybe_billed" in line for line in lines)
    with BatchClient(home.target) as client:
        info = client.get_batch("b")
        assert (info.state, info.items, info.done) == (BatchState.BATCH_STATE_FINISHED, 300, 300)


def test_a_client_and_its_sidecar_are_killed(home: Home, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ("run", rows, "--strategy", "narrow", "--batch-id", "b", "--resume", "--out", out, "--quiet")
    with run_command(home, *arguments) as process:
        wait_for_lines(out, 50, process)
        process.kill()
    home.restart()
    with run_command(home, *arguments) as process:
        assert process.wait(WAIT) == 0
    assert [json.loads(line)["sequence"] for line in out.read_text().splitlines()] == list(range(1, 301))


def test_a_batch_that_goes_on_by_itself(home: Home, rows: Path, tmp_path: Path) -> None:
    with run_command(home, "run", rows, "--strategy", "narrow", "--detach", stdout=subprocess.PIPE) as process:
        batch_id, _ = process.communicate(timeout=WAIT)
        assert process.returncode == 0
    batch_id = batch_id.strip()
    home.restart()
    with BatchClient(home.target) as client:
        while client.get_batch(batch_id).state != BatchState.BATCH_STATE_FINISHED:
            pass
        seen = Seen.none()
        for result in client.resume_batch(batch_id):
            assert result.replayed
            seen.add(result)
        seen.check(300)
        assert [batch.batch_id for batch in client.list_batches(1)] == [batch_id]
        client.delete_batch(batch_id)
        assert list(client.list_batches()) == []


def test_leaving_and_coming_back(home: Home) -> None:
    with BatchClient(home.target) as client:
        batch = client.process_batch(work(300), batch_id="b", detach=True)
        assert batch.leave() == 300
        seen = Seen.none()
        with client.resume_batch("b") as resumed:
            for result in resumed:
                seen.add(result)
        assert resumed.totals.succeeded == 300
    seen.check(300)


def test_an_item_with_a_key_over_a_restart(home: Home) -> None:
    item = WorkItem("1", script(latency_ms=300, reply="once"), strategy="narrow")
    with BatchClient(home.target, resume_policy=PATIENT) as client:
        killing = threading.Timer(0.1, home.restart)
        killing.start()
        result = client.process_item(item, idempotency_key="k")
        killing.join(WAIT)
        assert result.text == "once"
        again = client.process_item(item, idempotency_key="k")
        assert (again.text, again.replayed) == ("once", True)
