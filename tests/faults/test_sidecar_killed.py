"""`kill -9` the sidecar, whatever it does at the moment: nothing is lost, and nothing that had ended is paid twice."""

from __future__ import annotations

import time
from random import Random

import pytest

from .conftest import MakeHouse, Record
from .house import MAX_CONCURRENCY, House
from .processes import Process, until

_ITEMS = 120


@pytest.mark.timeout(0)  # as long as `--kills` asks for; each wait has its own limit
def test_sqlite(make_house: MakeHouse, record: Record, random: Random, kills: int) -> None:
    _kill_again_and_again(make_house(), record, random, kills - kills // 8, "kill -9 sidecar, SQLite")


def test_items_that_wait_for_their_providers_quota(make_house: MakeHouse, record: Record, random: Random) -> None:
    """They are not in flight, so a kill marks none of them."""
    fault = "kill -9 sidecar, calls limited by quota"
    _kill_again_and_again(make_house(limit_by="provider"), record, random, 3, fault)


@pytest.mark.timeout(0)
def test_postgres(make_house: MakeHouse, database: str, record: Record, random: Random, kills: int) -> None:
    # Each waits for the lease of the one that was killed.
    _kill_again_and_again(make_house(database), record, random, kills // 8, "kill -9 sidecar, PostgreSQL")


def _kill_again_and_again(house: House, record: Record, random: Random, kills: int, fault: str) -> None:
    house.up()
    done = 0
    while done < kills:
        before = done
        job = house.job(_ITEMS, detach=random.random() < 0.5, result_order=random.choice(["completion", "submission"]))
        client = house.client(job)
        while done < kills and client.code is None:
            random.choice(_MOMENTS)(house, random, client)
            done += 1
            house.up()
            house.emulator.remove()
        assert client.wait(120) == 0, client.said
        record(house.check(fault, job, faults=done - before))


def _after_calls(house: House, random: Random, client: Process) -> None:
    """As calls come and go."""
    house.wait_for_calls(house.calls() + random.randrange(1, 60), client)
    house.kill()


def _at_any_time(house: House, random: Random, client: Process) -> None:
    """Soon after its start: as it takes the batch up, takes in items, opens the stream."""
    time.sleep(random.uniform(0, 0.2))
    house.kill()


def _with_all_in_flight(house: House, random: Random, client: Process) -> None:
    """With as many calls held by the provider as there may be."""
    _hold(house, client)
    house.kill()


def _as_answers_come(house: House, random: Random, client: Process) -> None:
    """Just as many answers come at a time."""
    _hold(house, client)
    house.emulator.remove()
    time.sleep(random.uniform(0, 0.02))
    house.kill()


def _hold(house: House, client: Process) -> None:
    house.emulator.hold(kind="generate")
    idle = time.monotonic() + 2  # at the end of a batch there are fewer
    until(
        "calls that are held",
        lambda: client.code is not None or house.held() == MAX_CONCURRENCY or time.monotonic() > idle,
    )


def _as_it_starts(house: House, random: Random, client: Process) -> None:
    """Twice: the second time before it serves."""
    house.wait_for_calls(house.calls() + random.randrange(1, 30), client)
    house.kill()
    house.start()
    time.sleep(random.uniform(0, 1.0))
    house.kill()


_MOMENTS = (_after_calls, _at_any_time, _with_all_in_flight, _as_answers_come, _as_it_starts)
