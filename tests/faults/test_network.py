"""A network between client and sidecar that stalls and resets: the client rides it out, and nothing is run again."""

from __future__ import annotations

import time
from random import Random

from .conftest import MakeHouse, Record
from .processes import until
from .proxy import Proxy

_ITEMS = 300
_FAULTS = 12


def test_stalls_and_resets(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house(listen="127.0.0.1:0")
    house.up()
    with Proxy(lambda: house.target) as proxy:

        def stall() -> None:
            proxy.stall(*random.choice([(), ("up",), ("down",)]))
            time.sleep(random.uniform(0, 0.3))

        def stall_and_reset() -> None:
            stall()
            proxy.reset()

        def cut() -> None:
            proxy.cut_after(random.randrange(1, 4000))
            until("the cut", lambda: proxy.is_cut or client.code is not None)

        job = house.job(_ITEMS, result_order=random.choice(["completion", "submission"]))
        client = house.client(job, target=proxy.address)
        faults = 0
        while faults < _FAULTS and client.code is None:
            house.wait_for_results(job, house.saw(job) + random.randrange(0, 25), client)
            random.choice([proxy.reset, stall, stall_and_reset, cut])()
            proxy.flow()
            faults += 1
        assert client.wait(120) == 0, client.said
    row = house.check("network stalls, resets", job, faults=faults)
    assert (row.calls, row.marked) == (_ITEMS, 0), "nothing was run again"
    record(row)


def test_a_network_that_is_gone_for_good(make_house: MakeHouse, record: Record, random: Random) -> None:
    """No reset ever comes. Both ends notice: the client connects anew, and the batch is free for another one."""
    house = make_house(listen="127.0.0.1:0")
    house.up()
    with Proxy(lambda: house.target) as proxy, Proxy(lambda: house.target) as gone:
        jobs = [house.job(_ITEMS // 3), house.job(_ITEMS // 3)]
        for job in jobs:
            house.hold_last(job)  # else a batch may end before its network does, be its client as slow as it will
        rides_on, left = (house.client(job, target=way.address) for job, way in zip(jobs, (proxy, gone), strict=True))
        for job, client in zip(jobs, (rides_on, left), strict=True):
            house.wait_for_results(job, random.randrange(1, 50), client)
        proxy.stall_for_good()
        gone.stall_for_good()
        left.kill()  # its machine is gone: the proxy tells nobody
        assert house.sidecar is not None
        for job in jobs:
            house.sidecar.until_said(f"the stream of batch '{job.batch_id}' ended")
        house.emulator.remove()
        house.complete(jobs[1])
        assert rides_on.wait(120) == 0, rides_on.said
    for job in jobs:
        row = house.check("network gone for good", job, faults=1)
        assert (row.calls, row.marked) == (_ITEMS // 3, 0), "nothing was run again"
        record(row)


def test_stalls_and_resets_while_the_sidecar_is_killed(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house(listen="127.0.0.1:0")
    house.up()
    with Proxy(lambda: house.target) as proxy:
        job = house.job(_ITEMS)
        client = house.client(job, target=proxy.address)
        for _ in range(3):
            house.wait_for_calls(house.calls() + random.randrange(1, 60), client)
            proxy.stall(random.choice(["up", "down"]))
            time.sleep(random.uniform(0, 0.1))
            house.kill()
            house.up()
            proxy.flow()
            random.choice([proxy.reset, bool])()
        assert client.wait(120) == 0, client.said
    record(house.check("kill -9 sidecar, network stalls", job, faults=3))
