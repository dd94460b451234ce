"""`kill -9` the client, or the client and the sidecar: a new client process goes on where the one before ended."""

from __future__ import annotations

import time
from random import Random

import pytest

from .conftest import MakeHouse, Record
from .house import House, Job
from .processes import Process

_ITEMS = 240
_KILLS = 8


def _any_client(house: House, random: Random, job: Job) -> Process:
    return random.choice([house.client, house.command])(job)


def _until_some_results(house: House, random: Random, job: Job, client: Process) -> None:
    """Or before the first: as it connects, sends, receives."""
    house.wait_for_results(job, house.saw(job) + random.randrange(0, 40), client)
    time.sleep(random.uniform(0, 0.05))


@pytest.mark.parametrize("detach", [False, True])
def test_the_client(make_house: MakeHouse, record: Record, random: Random, detach: bool) -> None:
    house = make_house()
    house.up()
    job = house.job(_ITEMS, detach=detach)
    for _ in range(_KILLS // 2):
        client = house.client(job) if detach else _any_client(house, random, job)
        _until_some_results(house, random, job, client)
        client.kill()
    house.complete(job)
    row = house.check("kill -9 client", job, faults=_KILLS // 2)
    assert (row.calls, row.marked) == (_ITEMS, 0), "a client that dies costs nothing"
    record(row)


def test_the_sidecar_as_soon_as_a_batch_is_handed_over(make_house: MakeHouse, record: Record, random: Random) -> None:
    """What was accepted need never be sent again."""
    house = make_house()
    house.up()
    for _ in range(4):
        job = house.job(40, detach=True)
        assert house.hand_over(job).wait() == 0
        time.sleep(random.choice([0, random.uniform(0, 0.05)]))
        house.kill()
        house.up()
        job.items.write_text("")  # so that no client sends anything again
        house.complete(job)
        record(house.check("kill -9 sidecar after hand-over", job, faults=1))


def test_both(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house()
    house.up()
    job = house.job(_ITEMS)
    for _ in range(_KILLS):
        client = _any_client(house, random, job)
        _until_some_results(house, random, job, client)
        for kill in random.sample([client.kill, house.kill], 2):
            kill()
            time.sleep(random.choice([0, 0.02]))
        house.up()
    house.complete(job)
    record(house.check("kill -9 both", job, faults=_KILLS))
