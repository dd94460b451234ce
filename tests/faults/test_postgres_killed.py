"""`kill -9` PostgreSQL below a sidecar: it keeps its results, and goes on when the server is there again."""

from __future__ import annotations

import time
from random import Random

from tests.contract.postgres import PostgresServer

from .conftest import MakeHouse, Record

_ITEMS = 240
_KILLS = 4


def test_postgres(
    make_house: MakeHouse, postgres: PostgresServer, database: str, record: Record, random: Random
) -> None:
    house = make_house(database)
    sidecar = house.up()
    job = house.job(_ITEMS, detach=random.random() < 0.5)
    house.hold_last(job)  # else there may be nothing left to be written
    client = house.client(job)
    for kill in range(1, _KILLS + 1):
        house.wait_for_calls(min(house.calls() + random.randrange(1, 60), _ITEMS), client)
        time.sleep(random.uniform(0, 0.02))
        postgres.kill()
        sidecar.until_said(f"(?s)(the journal cannot be written.*){{{kill}}}")
        postgres.start()
    house.emulator.remove()
    assert client.wait(120) == 0, client.said
    row = house.check("kill -9 PostgreSQL", job, faults=_KILLS)
    assert (row.calls, row.marked) == (_ITEMS, 0), "nothing was run again"
    record(row)


def test_postgres_and_sidecar(
    make_house: MakeHouse, postgres: PostgresServer, database: str, record: Record, random: Random
) -> None:
    house = make_house(database)
    house.up()
    job = house.job(_ITEMS)
    client = house.client(job)
    for _ in range(2):
        house.wait_for_calls(house.calls() + random.randrange(1, 60), client)
        postgres.kill()
        time.sleep(random.uniform(0, 0.2))
        assert house.sidecar is not None
        house.sidecar.kill()
        postgres.start()
        house.look()
        house.up()
    assert client.wait(120) == 0, client.said
    record(house.check("kill -9 PostgreSQL and sidecar", job, faults=2))
