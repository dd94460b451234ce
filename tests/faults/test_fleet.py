"""Several sidecars on one PostgreSQL: batches change hands when a sidecar goes, and never run at two."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import grpc
import psycopg
import pytest

from batch_llm_client import BatchClient, Result, ResumePolicy, WorkItem
from batch_llm_client.errors import BatchLLMClientError, NotFoundError
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.work_pb2 import WorkItem as WireItem
from tests.contract.postgres import PostgresServer, stalled

from .conftest import MakeHouse, Record
from .house import LEASE_SECONDS, MAX_CONCURRENCY, House, Job, Member
from .processes import until
from .proxy import Proxy

_ITEMS = 100
_SINGLES = "SELECT lease_until FROM batch_llm.singles"


def items_of(job: Job) -> list[WorkItem]:
    return [WorkItem(item_id, prompt) for item_id, prompt in job.prompts.items()]


def hand_over(house: House, member: Member, count: int = _ITEMS, **opening: object) -> Job:
    """A detached batch that a sidecar holds whole, and no client."""
    house.visit(member)
    job = house.job(count, detach=True, **opening)
    with (
        BatchClient(member.address) as client,
        client.process_batch(items_of(job), batch_id=job.batch_id, **job.opening) as batch,
    ):
        batch.leave()
    return job


def get(member: Member, job: Job) -> pb.BatchInfo:
    with BatchClient(member.address) as client:
        return client.get_batch(job.batch_id)


def finish(house: House, member: Member, *jobs: Job) -> None:
    """Wait until batches have come to their end by themselves, then have a client get their results at a sidecar."""
    with BatchClient(member.address) as client:
        until(
            "the end",
            lambda: all(client.get_batch(job.batch_id).state == pb.BATCH_STATE_FINISHED for job in jobs),
        )
    house.visit(member)
    for job in jobs:
        house.complete(job)


def kill(house: House, member: Member) -> None:
    member.process.kill()
    house.look(member.key)
    house.emulator.remove()


def wait_until_stopped(house: House, member: Member) -> None:
    assert member.process.wait() == 0, member.process.said
    house.look(member.key)


@contextmanager
def stopped(member: Member) -> Iterator[None]:
    member.process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        member.process.signal(signal.SIGCONT)


def lease(database: str, job: Job) -> tuple[float, int]:
    """Until when its owner has a batch, and its fence."""
    with psycopg.connect(database) as connection:
        ask = "SELECT lease_until, fence FROM batch_llm.batches WHERE batch_id = %s"
        row = connection.execute(ask, (job.batch_id,)).fetchone()
    assert row is not None
    return row[0], row[1]


def wait_for_renewals(database: str, job: Job) -> None:
    """Wait for longer than a lease."""
    before, _ = lease(database, job)
    until("renewals", lambda: lease(database, job)[0] > before + 3)


@contextmanager
def claims_held_up(database: str, members: list[Member]) -> Iterator[None]:
    """Nobody gets a batch before all of these ask for one: else the first to look may have taken them all."""
    waiting = (
        "SELECT count(DISTINCT application_name) = %s FROM pg_stat_activity "
        "WHERE application_name = ANY(%s) AND wait_event_type = 'Lock'"
    )
    keys = [member.key for member in members]
    with psycopg.connect(database) as holder, psycopg.connect(database, autocommit=True) as connection:
        holder.execute("LOCK TABLE batch_llm.batches IN EXCLUSIVE MODE")  # lets all read
        yield
        until("claims", lambda: connection.execute(waiting, (len(keys), keys)).fetchone() == (True,))


# -- sidecars that differ ----------------------------------------------------------------------------------------------


def test_a_batch_stays_with_those_that_have_its_strategy(make_house: MakeHouse, database: str) -> None:
    house = make_house(database)
    later = {"BATCH_LLM_STRATEGIES__LATER": '{"provider": "gemini", "model": "gemini-2.5-flash"}'}
    house.environment = later
    (able,) = house.fleet(1)
    house.emulator.hold(kind="generate")
    job, doomed = (hand_over(house, able, 4, strategy="later") for _ in range(2))
    house.wait_for_held()
    house.environment = {}
    (unable,) = house.fleet(1)
    _, fence = lease(database, job)
    with BatchClient(unable.address) as client, pytest.raises(NotFoundError):
        client.resume_batch(job.batch_id).__enter__()
    assert lease(database, job)[1] == fence, "it was not taken away from the one that can go on with it"
    other = hand_over(house, unable, 4)
    able.process.kill()
    for each in (job, doomed):
        unable.process.until_said(f"batch '{each.batch_id}' cannot go on")
    wait_for_renewals(database, other)
    assert unable.process.said.count(f"batch '{job.batch_id}' ") == 2, "it says so once, and tries no more"
    with psycopg.connect(database) as connection:
        # What a sidecar leaves behind that ends before the owner has looked.
        connection.execute("INSERT INTO batch_llm.asks VALUES (%s, 'CANCEL', 0)", (doomed.batch_id,))
    until("the end", lambda: get(unable, doomed).state == pb.BATCH_STATE_CANCELLED)
    house.emulator.remove()
    house.environment = later
    (third,) = house.fleet(1)
    finish(house, third, job)


# -- sidecars that end -------------------------------------------------------------------------------------------------


def test_a_detached_batch_goes_on_elsewhere(
    make_house: MakeHouse, database: str, record: Record, random: Random
) -> None:
    house = make_house(database)
    first, second = house.fleet(2)
    house.emulator.hold(kind="generate", skip=random.randrange(1, 60))
    job = hand_over(house, first, result_order=random.choice(["completion", "submission"]))
    house.wait_for_held()
    kill(house, first)
    assert house.ended[job.batch_id][-1].open, "calls were in flight"
    finish(house, second, job)
    record(house.check("fleet: kill -9, detached batch", job, faults=1))


def test_a_client_goes_on_at_another_sidecar(
    make_house: MakeHouse, database: str, record: Record, random: Random
) -> None:
    """Both are behind one address, as a load balancer has it."""
    house = make_house(database)
    first, second = house.fleet(2)
    serving = first
    with Proxy(lambda: serving.address) as proxy:
        passed = random.randrange(1, 40)
        house.emulator.hold(kind="generate", skip=passed)
        job = house.job(_ITEMS, detach=random.random() < 0.5)
        client = house.client(job, target=proxy.address)
        house.wait_for_results(job, random.randrange(1, passed + 1), client)
        house.wait_for_held()
        serving = second
        kill(house, first)
        assert client.wait(120) == 0, client.said
    house.visit(second)
    record(house.check("fleet: kill -9, client attached", job, faults=1))


def test_fifty_batches(make_house: MakeHouse, database: str, record: Record) -> None:
    """Each is taken by one of two survivors."""
    house = make_house(database)
    first, *others = house.fleet(3)
    house.emulator.hold(kind="generate")
    jobs = [hand_over(house, first, 4) for _ in range(50)]
    house.wait_for_held()
    calls = house.calls()
    first.process.kill()
    with claims_held_up(database, others):
        house.look(first.key)
        house.emulator.remove()
    with BatchClient(others[0].address) as client:
        until("the end", lambda: all(one.state == pb.BATCH_STATE_FINISHED for one in client.list_batches()))
    assert sum(len(house.ended[job.batch_id][-1].open) for job in jobs) == MAX_CONCURRENCY
    for job in jobs:
        later = [key for keys in house.calls_of(job, after=calls).values() for key in keys]
        assert len(later) == len(job.prompts), f"{job.batch_id} was run at {later}"
        assert len({*later}) == 1, f"{job.batch_id} was run at {later}"
    assert {len(member.process.said.split(" taken up: ")) > 1 for member in others} == {True}


@pytest.mark.parametrize("attached", [False, True])
def test_a_sidecar_is_replaced(
    make_house: MakeHouse, database: str, record: Record, random: Random, attached: bool
) -> None:
    """As in a rolling restart: what it lets go of goes on at once, without waiting for a lease to end."""
    house = make_house(database)
    first, second = house.fleet(2)
    serving = first
    with Proxy(lambda: serving.address) as proxy:
        if attached:
            job = house.job(_ITEMS)
            client = house.client(job, target=proxy.address)
        else:
            job = hand_over(house, first)
        house.wait_for_calls(random.randrange(1, 60), first.process)
        serving = second
        first.process.signal(signal.SIGTERM)
        wait_until_stopped(house, first)
        assert not house.ended[job.batch_id][-1].open, "a drain waits for what is in flight"
        if attached:
            assert client.wait() == 0, client.said
            house.visit(second)
        else:
            finish(house, second, job)
    row = house.check(f"fleet: SIGTERM, {'client attached' if attached else 'detached batch'}", job, faults=1)
    assert (row.calls, row.marked) == (_ITEMS, 0)
    record(row)


def test_a_drain_that_takes_longer_than_a_lease(
    make_house: MakeHouse, database: str, record: Record, random: Random
) -> None:
    """What it still ends is its own until then."""
    house = make_house(database)
    first, second = house.fleet(2)
    house.emulator.hold(kind="generate", skip=random.randrange(1, 60))
    job = hand_over(house, first)
    house.wait_for_held()
    first.process.signal(signal.SIGTERM)
    wait_for_renewals(database, job)
    assert house.held() == MAX_CONCURRENCY
    house.emulator.remove()
    wait_until_stopped(house, first)
    finish(house, second, job)
    row = house.check("fleet: SIGTERM, long calls", job, faults=1)
    assert (row.calls, row.marked) == (_ITEMS, 0)
    record(row)


# -- sidecars that live ------------------------------------------------------------------------------------------------


def test_a_sidecar_that_stands_still_for_longer_than_its_lease(
    make_house: MakeHouse, database: str, record: Record, random: Random
) -> None:
    """Another one takes its batch over; when it comes back, it is not let write any more."""
    house = make_house(database)
    still, other = house.fleet(2)
    house.visit(still)
    passed = random.randrange(1, 40)
    house.emulator.hold(kind="generate", skip=passed)
    job = house.job(_ITEMS, detach=True)
    client = house.client(job)
    house.wait_for_results(job, random.randrange(1, passed + 1), client)
    house.wait_for_held()
    with stopped(still):
        house.look(still.key, over=False)
        other.process.until_said(f"batch '{job.batch_id}' taken up")
        house.emulator.remove()  # what it waited for comes while it stands still
        calls = house.calls()
        until("the other to go on", lambda: house.calls() > calls + 20)
    still.process.until_said(f"batch '{job.batch_id}' stops: .*taken over by another sidecar")
    # Its client is told so, and goes on with it: the other one gives the batch back.
    assert client.wait(120) == 0, client.said
    record(house.check("fleet: sidecar stands still", job, faults=1))
    another = house.job(10)
    served = house.client(another)
    assert served.wait() == 0, served.said
    record(house.check("fleet: sidecar stands still", another, faults=0))
    assert all(keys == [still.key] for keys in house.calls_of(another).values()), "it serves others"


def test_two_clients_at_two_sidecars(make_house: MakeHouse, database: str, record: Record) -> None:
    house = make_house(database)
    members = house.fleet(2)
    job = house.job(_ITEMS)
    house.emulator.hold(kind="generate")
    outs = [job.out, job.out.with_name("second.jsonl")]
    clients = [house.client(job, target=member.address, out=out) for member, out in zip(members, outs, strict=True)]
    until("one to be refused", lambda: any(client.code is not None for client in clients))
    (refused,) = (number for number, client in enumerate(clients) if client.code is not None)
    assert "BatchInUseError" in clients[refused].said
    assert clients[1 - refused].code is None
    # Whoever asks again has it once the first is gone, and what it had in flight has ended.
    clients[1 - refused].kill()
    house.emulator.remove()
    job.out = outs[refused]
    house.visit(members[refused])
    house.complete(job)
    row = house.check("fleet: two clients", job, faults=1)
    assert (row.calls, row.marked) == (_ITEMS, 0)
    record(row)


@pytest.mark.parametrize("count", [MAX_CONCURRENCY, _ITEMS])
def test_a_client_comes_back_elsewhere(make_house: MakeHouse, database: str, record: Record, count: int) -> None:
    """A detached batch that runs without a client is handed to the sidecar where its client comes, unless it ends."""
    house = make_house(database)
    first, second = house.fleet(2)
    house.emulator.hold(kind="generate")
    job = hand_over(house, first, count)
    house.wait_for_held()
    house.visit(second)
    client = house.client(job)
    first.process.until_said(f"batch '{job.batch_id}' is let go of")
    house.emulator.remove()
    assert client.wait() == 0, client.said
    row = house.check("fleet: client comes elsewhere", job, faults=1)
    assert (row.calls, row.marked) == (count, 0), "what is in flight ends before a batch is handed over"
    record(row)
    by = {key for keys in house.calls_of(job).values() for key in keys}
    assert by == ({first.key} if count == MAX_CONCURRENCY else {first.key, second.key})


def test_a_batch_is_looked_at_and_ended_from_elsewhere(make_house: MakeHouse, database: str, random: Random) -> None:
    house = make_house(database)
    first, second = house.fleet(2)
    passed = random.randrange(20, 40)
    house.emulator.hold(kind="generate", skip=passed)
    job = hand_over(house, first)
    house.wait_for_held()
    with BatchClient(second.address) as client:
        until("all results to be recorded", lambda: client.get_batch(job.batch_id).done == passed)
        seen = client.get_batch(job.batch_id)
        assert (seen.state, seen.running, seen.items) == (pb.BATCH_STATE_SEALED, True, _ITEMS)
        assert seen.done == seen.last_sequence > 0
        assert list(client.list_batches()) == [seen]
        with pytest.raises(BatchLLMClientError) as refused:
            client.delete_batch(job.batch_id)
        assert refused.value.reason == "BATCH_NOT_FINISHED"
        cancelled = client.cancel_batch(job.batch_id)
        assert (cancelled.state, cancelled.running, cancelled.done) == (pb.BATCH_STATE_CANCELLED, False, _ITEMS)
        calls = house.calls()
        with BatchClient(first.address) as at_first:
            assert at_first.get_batch(job.batch_id) == cancelled
        client.delete_batch(job.batch_id)
    with pytest.raises(BatchLLMClientError) as gone:
        get(first, job)
    assert gone.value.reason == "BATCH_NOT_FOUND"
    assert house.calls() == calls


def test_a_cancelled_batch_stays_cancelled(make_house: MakeHouse, database: str) -> None:
    """Whoever takes it up ends it, also if it was not detached and its owner never heard of the wish."""
    house = make_house(database)
    first, second = house.fleet(2)
    house.visit(first)
    job = house.job(_ITEMS)
    house.emulator.hold(kind="generate")
    client = house.client(job)
    house.wait_for_held()
    with stopped(first), ThreadPoolExecutor(1) as thread, BatchClient(second.address) as other:
        cancelling = thread.submit(other.cancel_batch, job.batch_id)
        client.kill()
        first.process.kill()
        cancelling.result()  # maybe before it has ended: the wish stands
        until("the end", lambda: get(second, job).state == pb.BATCH_STATE_CANCELLED)
        assert not get(second, job).running
    assert house.calls() == MAX_CONCURRENCY


# -- single items ------------------------------------------------------------------------------------------------------


def test_an_idempotency_key_at_two_sidecars(make_house: MakeHouse, database: str) -> None:
    """Its item is run once; by another sidecar only when the one that ran it is gone, and then with a mark."""
    house = make_house(database)
    first, second = house.fleet(2)
    with (
        ThreadPoolExecutor(4) as threads,
        BatchClient(first.address, resume_policy=ResumePolicy(max_tries=0)) as at_first,
        BatchClient(second.address) as at_second,
    ):

        def ask(client: BatchClient, key: str) -> Future[Result]:
            return threads.submit(
                lambda: client.process_item(WorkItem(key, key, strategy="label"), idempotency_key=key)
            )

        house.emulator.hold(kind="generate")
        asked = [ask(client, "both") for client in (at_first, at_second) * 2]
        until("the call", lambda: house.held())
        with pytest.raises(BatchLLMClientError) as refused:
            at_second.process_item(WorkItem("another", "another", strategy="label"), idempotency_key="both")
        assert refused.value.reason == "IDEMPOTENCY_CONFLICT"
        with psycopg.connect(database, autocommit=True) as connection:
            ((before,),) = connection.execute(_SINGLES)
            until("renewals", lambda: connection.execute(_SINGLES).fetchone()[0] > before + 3)
        house.emulator.remove()
        results = [one.result() for one in asked]
        assert house.calls() == 1
        assert {result.text for result in results} == {results[0].text}
        assert sorted(result.message.replayed for result in results) == [False, True, True, True]
        assert not any(result.maybe_billed for result in results)

        house.emulator.hold(kind="generate")
        killed = ask(at_first, "taken over")
        until("the call", lambda: house.held())
        waits = ask(at_second, "taken over")
        first.process.kill()
        until("the other's call", lambda: house.held() == 2 or house.calls() == 3)
        house.emulator.remove()
        assert waits.result().maybe_billed
        assert killed.exception() is not None
        assert house.calls() == 3


def test_an_idempotency_key_while_postgres_is_away(
    make_house: MakeHouse, postgres: PostgresServer, database: str
) -> None:
    """For longer than a lease: nobody takes its item over before the one that runs it could renew."""
    house = make_house(database)
    house.environment = {"BATCH_LLM_SERVER__LOG_LEVEL": "DEBUG"}
    first, second = house.fleet(2)
    with (
        ThreadPoolExecutor(2) as threads,
        # Without a client's keepalive, which would break the call of a sidecar that stands still, and make another.
        grpc.insecure_channel(first.address) as to_first,
        BatchClient(second.address, resume_policy=ResumePolicy(max_tries=1000, max_backoff_seconds=0.2)) as at_second,
    ):

        def ask(key: str) -> Future[Result]:
            return threads.submit(
                lambda: at_second.process_item(WorkItem(key, key, strategy="label"), idempotency_key=key)
            )

        house.emulator.hold(kind="generate")
        item = WireItem(item_id="one", prompt="one", strategy="label")
        runs = BatchServiceStub(to_first).ProcessItem.future(pb.ProcessItemRequest(item=item, idempotency_key="one"))
        until("the call", lambda: house.held())
        with psycopg.connect(database) as connection:
            ((before,),) = connection.execute(_SINGLES)
        postgres.stop("immediate")
        second.process.until_said("(?s)(cannot be asked for batches to go on with.*){5}")
        with stopped(first):
            postgres.start()
            waits = ask("one")
            other = ask("two")
            until("the call of the other", lambda: house.held() == 2)
        with psycopg.connect(database, autocommit=True) as connection:
            ask_lease = f"{_SINGLES} WHERE idempotency_key = 'one'"
            until("renewals", lambda: connection.execute(ask_lease).fetchone()[0] > before + 5)
        house.emulator.remove()
        results = [runs.result().result, waits.result().message, other.result().message]
    assert house.calls() == 2
    assert not any(result.maybe_billed for result in results)
    assert [result.replayed for result in results] == [False, True, False]


# -- the store ---------------------------------------------------------------------------------------------------------


def test_postgres_is_restarted(
    make_house: MakeHouse, postgres: PostgresServer, database: str, record: Record, random: Random
) -> None:
    """For longer than a lease: each keeps its batches, since none could have renewed."""
    house = make_house(database)
    house.environment = {"BATCH_LLM_SERVER__LOG_LEVEL": "DEBUG"}
    members = house.fleet(2)
    house.emulator.hold(kind="generate")
    jobs = [hand_over(house, member) for member in members]
    house.wait_for_held(2 * MAX_CONCURRENCY)
    fences = [lease(database, job)[1] for job in jobs]
    postgres.stop("immediate" if random.random() < 0.5 else "fast")
    for member in members:
        member.process.until_said("(?s)(cannot be asked for batches to go on with.*){4}")
        assert member.process.said.count("WARNING the journal cannot be asked") == 1, "it warns once"
    postgres.start()
    house.emulator.remove()
    finish(house, members[0], *jobs)
    for job, member, fence in zip(jobs, members, fences, strict=True):
        row = house.check("fleet: PostgreSQL restarted", job, faults=1)
        assert (row.calls, row.marked) == (_ITEMS, 0), "nothing was run again"
        assert all(keys == [member.key] for keys in house.calls_of(job).values())
        assert lease(database, job)[1] == fence
        record(row)


def test_postgres_stands_still(make_house: MakeHouse, postgres: PostgresServer, database: str, record: Record) -> None:
    """For longer than a lease: what was asked meanwhile is answered at once then, before owners can renew."""
    house = make_house(database)
    members = house.fleet(2)
    house.emulator.hold(kind="generate")
    jobs = [hand_over(house, member) for member in members]
    house.wait_for_held(2 * MAX_CONCURRENCY)
    fences = [lease(database, job)[1] for job in jobs]
    with stalled(postgres):
        over = time.monotonic() + 2 * LEASE_SECONDS
        until("two leases are over", lambda: time.monotonic() > over)
    house.emulator.remove()
    finish(house, members[0], *jobs)
    for job, member, fence in zip(jobs, members, fences, strict=True):
        row = house.check("fleet: PostgreSQL stands still", job, faults=1)
        assert (row.calls, row.marked) == (_ITEMS, 0), "nothing was run again"
        assert all(keys == [member.key] for keys in house.calls_of(job).values())
        assert lease(database, job)[1] == fence
        record(row)


def test_clocks_that_differ(make_house: MakeHouse, database: str, record: Record, random: Random) -> None:
    """Leases go by the store's clock, and so do times."""
    house = make_house(database)
    late, early = house.join(clock=-3600), house.join(clock=3600)
    house.emulator.hold(kind="generate", skip=random.randrange(1, 60))
    job = hand_over(house, late)
    house.wait_for_held()
    assert get(early, job).running
    _, fence = lease(database, job)
    wait_for_renewals(database, job)
    assert lease(database, job)[1] == fence, "nobody else took it"
    kill(house, late)
    finish(house, early, job)
    assert get(early, job).batch_result.elapsed.ToTimedelta().total_seconds() < 600
    record(house.check("fleet: clocks differ", job, faults=1))
