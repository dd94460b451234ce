"""A sidecar that is ended in any way and started again, its clients, and what must be true whatever happened."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from random import Random

import psycopg

from batch_llm.emulator import GeminiEmulator
from batch_llm.journal.postgres import PostgresStore
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import JournalStore
from batch_llm_client import BatchClient, Receipt
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.work_pb2 import BatchResult, WorkItemResult

from .processes import Process, until
from .report import Row

MAX_CONCURRENCY = 8
LEASE_SECONDS = 3
CONFIG = """
[server]
state_dir = "{state}"
listen = ["{listen}"]
drain_timeout_seconds = {drain_seconds}
[journal]
url = "{journal}"
lease_seconds = {lease_seconds}
[providers.gemini]
kind = "gemini"
base_url = "{emulator}"
max_concurrency = {provider_limit}
[strategies.label]
provider = "gemini"
model = "gemini-2.5-flash"
max_concurrency = {strategy_limit}
"""
_COMMAND = "from batch_llm_client.cli import run_command; run_command()"
# One item in so many is blocked by its provider: its failure is a result like any other.
_BLOCKED = 17


@dataclass
class Job:
    """A batch as its client knows it."""

    batch_id: str
    prompts: dict[str, str]
    items: Path
    out: Path
    opening: dict[str, object]


@dataclass(frozen=True)
class Member:
    """A sidecar of a fleet.

    Args:
        key: by which the provider tells its calls.
        process: it.
    """

    key: str
    process: Process

    @property
    def address(self) -> str:
        """Where it serves; waits until it does."""
        return self.process.until_said(r"serving on (\S+)")[1]


@dataclass(frozen=True)
class Life:
    """What the journal said of a batch when a sidecar had ended: ids of items."""

    key: str
    done: frozenset[str]
    begun: frozenset[str]

    calls: int = 0
    """Calls that the provider had got."""

    @property
    def open(self) -> frozenset[str]:
        """Those that may have been in flight."""
        return self.begun - self.done


@dataclass
class House:
    """See the module.

    Args:
        folder: for everything.
        emulator: the provider; it keeps bodies.
        journal: as in `journal.url`.
        random: moments and items are drawn from it.
        listen: the sidecar's address; empty: a Unix socket.
        state: the sidecar's state directory; None: in `folder`.
        limit_by: what holds calls in flight to MAX_CONCURRENCY: "strategy" or "provider".
        drain_seconds: how long SIGTERM waits.
        program: the sidecar's command.
        environment: of the sidecar.
    """

    folder: Path
    emulator: GeminiEmulator
    journal: str
    random: Random
    listen: str = ""
    state: Path | None = None
    limit_by: str = "strategy"
    drain_seconds: float = 30.0
    program: Sequence[object] = ("-m", "batch_llm.sidecar.cli")
    environment: dict[str, str] = field(default_factory=dict)
    sidecar: Process | None = None
    keys: list[str] = field(default_factory=list)
    ended: dict[str, list[Life]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A socket's path must be short, and pytest's folders are not.
        self._sockets = Path(tempfile.mkdtemp(prefix="faults-"))
        self.listen = self.listen or f"unix:{self._sockets}/s.sock"
        self.state = self.state or self.folder / "state"
        self._address = ""

    def close(self) -> None:
        for process in self.processes:
            process.kill()  # also one that is stopped
        shutil.rmtree(self._sockets)

    @property
    def target(self) -> str:
        """Where clients find the sidecar."""
        assert self._address, "no sidecar was up"
        return self._address

    # -- the sidecar -------------------------------------------------------------------------------------------------

    def start(self) -> Process:
        """Start a sidecar with a key of its own, by which the provider tells its calls from those of others."""
        assert self.sidecar is None or self.sidecar.code is not None
        self.sidecar = self.launch()
        return self.sidecar

    def join(self, *, clock: float = 0.0, drain_seconds: float | None = None) -> Member:
        """Start one sidecar of a fleet, on a port of its own.

        Args:
            clock: how many seconds its wall clock is off.
            drain_seconds: how long SIGTERM waits.
        """
        number = len(self.keys)
        offset = self.folder / f"clock{number}"
        offset.write_text(str(clock))
        return Member(
            f"key-{number}",
            self.launch(
                listen="127.0.0.1:0",
                state=self.folder / f"state{number}",
                drain_seconds=drain_seconds,
                program=("-m", "tests.faults.jumping_clock") if clock else None,
                environment={"CLOCK_OFFSET_FILE": str(offset)},
            ),
        )

    def fleet(self, count: int) -> list[Member]:
        """So many sidecars, all up."""
        members = [self.join() for _ in range(count)]
        for member in members:
            self.visit(member)
        return members

    def visit(self, member: Member) -> None:
        """Have clients find this sidecar, once it serves."""
        self._address = member.address

    def launch(
        self,
        *,
        listen: str = "",
        state: Path | None = None,
        drain_seconds: float | None = None,
        program: Sequence[object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start one of perhaps several; what is not given is as the house has it."""
        key = f"key-{len(self.keys)}"
        self.keys.append(key)
        config = self.folder / f"{key}.toml"
        config.write_text(
            CONFIG.format(
                lease_seconds=LEASE_SECONDS,
                state=state or self.state,
                listen=listen or self.listen,
                drain_seconds=self.drain_seconds if drain_seconds is None else drain_seconds,
                # By its name the server's sessions tell whose they are.
                journal=self.journal + (f"&application_name={key}" if "?" in self.journal else ""),
                emulator=self.emulator.url,
                provider_limit=MAX_CONCURRENCY if self.limit_by == "provider" else 64,
                strategy_limit=MAX_CONCURRENCY if self.limit_by == "strategy" else 0,
            )
        )
        environment = {"GEMINI_API_KEY": key, **self.environment, **(environment or {})}
        program = self.program if program is None else program
        return self.run(f"{key}.log", *program, "serve", "--config", config, environment=environment)

    def up(self) -> Process:
        sidecar = self.start()
        self._address = sidecar.until_said(r"serving on (\S+)")[1]
        return sidecar

    def kill(self) -> None:
        """`kill -9`, and a look at what is left."""
        assert self.sidecar is not None
        self.sidecar.kill()
        self.look()

    def stop(self) -> None:
        """SIGTERM, which must end well, and a look at what is left."""
        assert self.sidecar is not None
        self.sidecar.signal(signal.SIGTERM)
        assert self.sidecar.wait() == 0, self.sidecar.said
        self.look()

    def refused(self) -> str:
        """Start a sidecar that must refuse to; what it says."""
        sidecar = self.start()
        assert sidecar.wait() == 2, sidecar.said
        assert "Traceback" not in sidecar.said
        return sidecar.said

    def look(self, key: str = "", *, over: bool = True) -> None:
        """Note what the journal says of each batch, now that a sidecar has ended, or (not `over`) stands still.

        Args:
            key: the sidecar's; empty: the last one's.
            over: whether it has ended.
        """
        key = key or self.keys[-1]
        if self.journal != "sqlite":
            _wait_for_last_commits(self.journal, key, over=over)
        for job in self.jobs:
            self.ended.setdefault(job.batch_id, []).append(asyncio.run(self._look(job.batch_id, key)))

    async def _look(self, batch_id: str, key: str) -> Life:
        with ExitStack() as stack:
            if self.journal == "sqlite":
                if not (self.state / "journal.db").exists():
                    return Life(key, frozenset(), frozenset())
                # A copy: looking must not mend anything.
                copy = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
                for file in self.state.glob("journal.db*"):
                    if not file.name.endswith(("-shm", "-lock")):
                        shutil.copy(file, copy)
                store: JournalStore = SqliteStore(copy / "journal.db")
            else:
                store = PostgresStore(self.journal)
            await store.open(inspect=True)
            try:
                return replace(await _life(store, batch_id, key), calls=self.calls())
            finally:
                await store.close()

    # -- clients -----------------------------------------------------------------------------------------------------

    def job(self, count: int, **opening: object) -> Job:
        number = len(self.jobs)
        prompts = {}
        for item in range(count):
            item_id = f"job{number}-item{item}"
            said: dict[str, object] = {"reply": f"answer to {item_id}", "latency_ms": self.random.randrange(60)}
            if item % _BLOCKED == _BLOCKED - 1:
                said["block_reason"] = "SAFETY"
            prompts[item_id] = json.dumps({"simulate": {**said, "id": item_id}})
        items, out = self.folder / f"items{number}.jsonl", self.folder / f"out{number}.jsonl"
        rows = (json.dumps({"id": item_id, "prompt": prompt}) for item_id, prompt in prompts.items())
        items.write_text("\n".join(rows) + "\n")
        job = Job(f"batch{number}", prompts, items, out, {"strategy": "label", **opening})
        self.jobs.append(job)
        return job

    def client(self, job: Job, *, target: str = "", out: Path | None = None) -> Process:
        """A process that takes the job up by its `batch_id` after the last result that its file has."""
        opening = json.dumps(job.opening)
        arguments = (target or self.target, job.batch_id, job.items, out or job.out, opening)
        return self.run(f"client{len(self.processes)}.log", "-m", "tests.faults.client", *arguments)

    def complete(self, job: Job) -> None:
        """Have a new client take the job to its end; until the one before is noticed to be gone, it is told so."""

        def done() -> bool:
            client = self.client(job)
            code = client.wait(120)
            assert code == 0 or "BatchInUseError" in client.said, client.said
            return code == 0

        until("a client that comes to the end", done)

    def command(self, job: Job) -> Process:
        """The same by the command line."""
        return self._command(job, "--resume", "--out", job.out)

    def hand_over(self, job: Job) -> Process:
        """A command that ends when the sidecar has all items."""
        return self._command(job, "--detach")

    def _command(self, job: Job, *arguments: object) -> Process:
        arguments = ("--strategy", "label", "--batch-id", job.batch_id, "--quiet", *arguments)
        return self.run(
            f"client{len(self.processes)}.log",
            *("-c", _COMMAND, "--target", self.target, "--wait", "60", "run", job.items, *arguments),
        )

    def saw(self, job: Job) -> int:
        """How many results its client has written."""
        return job.out.read_bytes().count(b"\n") if job.out.exists() else 0

    def wait_for_results(self, job: Job, count: int, client: Process) -> None:
        """Wait until its client has written so many, or has ended."""
        until(f"{count} results", lambda: client.code is not None or self.saw(job) >= count)

    def run(self, log: str, *arguments: object, environment: Mapping[str, str] | None = None) -> Process:
        process = Process(arguments, self.folder / log, environment)
        self.processes.append(process)
        return process

    # -- the provider ------------------------------------------------------------------------------------------------

    def calls(self) -> int:
        return self.emulator.count("generate")

    def unanswered(self) -> int:
        return sum(call["status"] is None for call in self.emulator.requests("generate"))

    def held(self) -> int:
        """Calls that a rule holds."""
        return sum(call["status"] is None and call["rule"] for call in self.emulator.requests("generate"))

    def hold_last(self, job: Job) -> None:
        """Have the provider hold the job's last item until `emulator.remove`: its batch cannot end before."""
        self.emulator.hold(kind="generate", contains=json.dumps([*job.prompts][-1]))

    def wait_for_held(self, count: int = MAX_CONCURRENCY) -> None:
        """Wait until so many calls are held."""
        until("calls that are held", lambda: self.held() == count)

    def wait_for_calls(self, count: int, process: Process) -> bool:
        """Wait until so many have come; False: the process has ended before."""

        def look() -> bool:
            return process.code is not None or self.calls() >= count

        until(f"{count} calls", look)
        return process.code is None

    def calls_of(self, job: Job, *, after: int = 0, until: int | None = None) -> dict[str, list[str]]:
        """For each item, the keys with which it was called, in order, by the calls in this range of all."""
        keys = {hashlib.sha256(key.encode()).hexdigest()[:12]: key for key in self.keys}
        calls: dict[str, list[str]] = {item_id: [] for item_id in job.prompts}
        for request in self.emulator.requests("generate")[after:until]:
            text = json.loads(request["body"])["contents"][0]["parts"][0]["text"]
            item_id = json.loads(text)["simulate"]["id"]
            if item_id in calls:
                calls[item_id].append(keys[request["key"]])
        return calls

    # -- what must be true -------------------------------------------------------------------------------------------

    def check(self, fault: str, job: Job, *, faults: int) -> Row:
        """Nothing is lost, nothing that had ended is paid twice, and what may be paid twice says so."""
        with BatchClient(self.target) as client:
            info = client.get_batch(job.batch_id)
            with client.resume_batch(job.batch_id) as batch:
                results = [result.message for result in batch]
        assert info.state == pb.BATCH_STATE_FINISHED
        self._check_results(job, results)
        check_totals(info.batch_result, results)
        calls = self.calls_of(job)
        assert all(calls.values()), "an item has a result and was never called"
        lives = self.ended.get(job.batch_id, [])
        paid_twice = set[str]()
        for life in lives:
            later = self.calls_of(job, after=life.calls)
            paid_twice |= {item_id for item_id in life.done if later[item_id]}
        assert not paid_twice, f"had a durable result and were called again: {sorted(paid_twice)}"
        for item_id, keys in calls.items():
            assert len(keys) == len(set(keys)), f"{item_id} was called twice by one sidecar: {keys}"
        marked = {result.item_id for result in results if result.maybe_billed}
        repeated = {item_id for item_id, keys in calls.items() if len(keys) > 1}
        assert repeated <= marked, f"were called again and have no mark: {sorted(repeated - marked)}"
        in_flight = frozenset[str]().union(*(life.open for life in lives))
        for life in lives:
            before = self.calls_of(job, until=life.calls)
            called = {item_id for item_id, keys in before.items() if life.key in keys}
            assert called <= life.done | life.begun, "an item was called before the journal said so"
            assert len(life.open) <= MAX_CONCURRENCY, f"{len(life.open)} marks by one kill"
        assert marked == in_flight, f"marks differ by {sorted(marked ^ in_flight)}"
        lost = len(job.prompts.keys() - {result.item_id for result in results})
        total = sum(len(keys) for keys in calls.values())
        return Row(fault, faults, len(job.prompts), total, len(repeated), len(marked), lost, len(paid_twice))

    def _check_results(self, job: Job, results: list[WorkItemResult]) -> None:
        assert [result.sequence for result in results] == list(range(1, len(job.prompts) + 1))
        assert sorted(result.item_id for result in results) == sorted(job.prompts)
        for result in results:
            if int(result.item_id.rpartition("item")[2]) % _BLOCKED == _BLOCKED - 1:
                assert result.HasField("error")
            else:
                assert result.output.text == f"answer to {result.item_id}", result
        if job.opening.get("result_order") == "submission":
            assert [result.item_id for result in results] == list(job.prompts)
        saw = [json.loads(line) for line in job.out.read_text().splitlines()]
        assert [line["sequence"] for line in saw] == list(range(1, len(results) + 1)), "gaps or repeats at the client"
        for line, result in zip(saw, results, strict=True):
            result.replayed = False
            assert line["item_id"] == result.item_id
            assert line.get("maybe_billed", False) == result.maybe_billed
            if "wire" in line:
                assert WorkItemResult.FromString(base64.b64decode(line["wire"])) == result


def _wait_for_last_commits(url: str, key: str, *, over: bool) -> None:
    """What a killed sidecar, or one that was stopped, had sent to PostgreSQL may be committed a moment later."""
    ask = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND (%s OR state = 'active')"
    with psycopg.connect(url, autocommit=True) as connection:
        until("the end of its sessions' work", lambda: connection.execute(ask, (key, over)).fetchone() == (0,))


def check_totals(totals: BatchResult, results: Sequence[WorkItemResult]) -> None:
    """The batch's sums are those over its results, to the token and the nano-dollar."""
    failed = [result for result in results if result.HasField("error")]
    assert (totals.total_items, totals.failed, totals.succeeded) == (
        *(len(results), len(failed), len(results) - len(failed)),
    )
    usage = [result.usage for result in results]
    assert totals.total_input_tokens == sum(one.input_tokens for one in usage)
    assert totals.total_output_tokens == sum(one.output_tokens for one in usage)
    assert totals.total_cached_tokens == sum(one.cached_input_tokens for one in usage)
    assert totals.total_input_tokens > 0
    receipts = [Receipt.from_message(result.receipt) for result in results]
    whole = Receipt.from_message(totals.receipt)
    for name in (one.name for one in fields(Receipt)):
        if name not in {"price_date", "advice"}:
            assert getattr(whole, name) == sum(getattr(receipt, name) or 0 for receipt in receipts), name
    assert (whole.total_nano_usd or 0) > 0


async def _life(store: JournalStore, batch_id: str, key: str) -> Life:
    if await store.get(batch_id) is None:
        return Life(key, frozenset(), frozenset())
    ids: dict[int, str] = {}
    async for items in store.items(batch_id):
        for index, item in enumerate(pb.WorkItems.FromString(items.payload).items, items.first_index):
            ids[index] = item.item_id
    done = [ids[index] async for results in store.results(batch_id) for index in results.indexes]
    assert len(done) == len(set(done)), f"two results for one item: {Counter(done).most_common(3)}"
    begun = [ids[index] async for starts in store.starts(batch_id) for index in starts]
    return Life(key, frozenset(done), frozenset(begun))
