"""What happens without a fault: SIGTERM in mid-batch, two clients on one batch, a clock that jumps."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .conftest import MakeHouse, Record
from .house import MAX_CONCURRENCY
from .processes import until

_ITEMS = 200


def test_sigterm_in_mid_batch(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house()
    house.up()
    job = house.job(_ITEMS, detach=True)
    assert house.hand_over(job).wait() == 0
    sidecar = house.sidecar
    for _ in range(3):
        assert sidecar is not None
        # It may be far ahead of us, but there are no more calls than items.
        house.wait_for_calls(min(house.calls() + random.randrange(1, 50), _ITEMS), sidecar)
        house.stop()
        assert not house.ended[job.batch_id][-1].open, "a drain waits for what is in flight"
        sidecar = house.up()
    house.complete(job)
    row = house.check("SIGTERM", job, faults=3)
    assert (row.calls, row.marked) == (_ITEMS, 0)
    record(row)


def test_sigterm_that_cannot_wait(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house(drain_seconds=0.1)
    house.up()
    house.emulator.hold(kind="generate", skip=random.randrange(1, 50))
    job = house.job(_ITEMS)
    client = house.client(job)
    house.wait_for_held()
    house.stop()
    house.emulator.remove()
    assert len(house.ended[job.batch_id][-1].open) == MAX_CONCURRENCY
    house.up()
    assert client.wait(120) == 0, client.said
    record(house.check("SIGTERM, drain cut short", job, faults=1))


def test_two_clients_on_one_batch(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house()
    house.up()
    job = house.job(_ITEMS)
    second = job.out.with_name("second.jsonl")
    house.hold_last(job)  # else the batch may end before the slower one comes, and give it all results
    clients = {path: house.client(job, out=path) for path in (job.out, second)}
    until("one to be refused", lambda: [c for c in clients.values() if c.code is not None])
    (refused,) = (path for path, client in clients.items() if client.code is not None)
    (first,) = clients.keys() - {refused}
    assert "BatchInUseError" in clients[refused].said
    until("results", lambda: first.exists() and first.read_bytes().count(b"\n") > 10)
    clients[first].kill()
    house.emulator.remove()

    original, job.out = job.out, refused
    house.complete(job)
    assert house.client(job, out=first).wait(120) == 0  # and the first one gets the rest
    rows = []
    for path in (original, second):
        job.out = path
        rows.append(house.check("two clients, one batch", job, faults=1))
    assert rows[0] == rows[1]
    assert (rows[0].calls, rows[0].marked) == (_ITEMS, 0)
    record(rows[0])


def test_a_clock_that_jumps(make_house: MakeHouse, record: Record, random: Random, tmp_path: Path) -> None:
    """Days ahead and back, in mid-batch and across kills; the provider's clock jumps, too."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    house = make_house(program=("-m", "tests.faults.jumping_clock"), environment={"CLOCK_OFFSET_FILE": str(offset)})
    house.up()
    job = house.job(_ITEMS, detach=random.random() < 0.5)
    client = house.client(job)
    jumps = [30 * 86_400, -30 * 86_400, 3600, -5]
    random.shuffle(jumps)
    for jump in jumps:
        house.wait_for_calls(house.calls() + random.randrange(1, 30), client)
        offset.with_suffix(".new").write_text(str(jump))
        offset.with_suffix(".new").rename(offset)
        house.emulator.advance(max(jump, 0))
        if random.random() < 0.5:
            house.wait_for_calls(house.calls() + random.randrange(1, 10), client)
            house.kill()
            house.up()
    assert client.wait(120) == 0, client.said
    record(house.check("clock jumps", job, faults=len(jumps)))
