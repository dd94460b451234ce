"""Strategies that clients register outlive their sidecar, and are known in a fleet."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from batch_llm.sidecar.server import Sidecar
from batch_llm.sidecar.settings import OpenAIProvider, Settings
from batch_llm_client import BatchClient
from batch_llm_client.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.strategy_service_pb2 import RegisterStrategyRequest, StrategySpec
from batchllm.v1.strategy_service_pb2_grpc import StrategyServiceStub
from batchllm.v1.work_pb2 import WorkItem

from .conftest import Start
from .streams import reason_name, reason_of
from .test_journal import House, check_totals, many, work

LATER: dict[str, Any] = {"name": "later", "provider": "ledger", "retry": {"max_attempts": 2}}
CACHED: dict[str, Any] = {"name": "cached", "provider": "sim", "cached_content": ["a handbook that all share"]}
SIM = {"BATCH_LLM_PROVIDERS__SIM": '{"kind": "simulated"}'}

Door = Callable[[House], BatchClient]


@pytest.fixture
def at() -> Iterator[Door]:
    """A client of a house."""
    clients: list[BatchClient] = []

    def open_(house: House) -> BatchClient:
        clients.append(BatchClient(house.target))
        return clients[-1]

    yield open_
    for client in clients:
        client.close()


@pytest.fixture
def house(start: Start, tmp_path: Path) -> House:
    return House(start, tmp_path)


# -- one sidecar -------------------------------------------------------------------------------------------------------


def test_a_killed_sidecar_goes_on_with_a_batch_on_a_registered_strategy(house: House, at: Door) -> None:
    house.up()
    assert at(house).register_strategy(LATER)[1]
    items = [*many("hold", range(2)), WorkItem(item_id="other", prompt="other", strategy="ledger")]
    first = house.stream(strategy="later", detach=True, max_concurrency=1).send(*items).half_close()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    house.wait_for_calls(1)
    house.kill()
    first.drop()
    house.open_the_gate()
    house.up()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)
    with house.stream(strategy="") as second:
        assert [reason_name(result) for result in second.half_close().rest()] == ["", "", ""]
        check_totals(second, 3)
    client = at(house)
    assert not client.register_strategy(LATER)[1]
    with pytest.raises(AlreadyExistsError) as failure:
        client.register_strategy({**LATER, "max_concurrency": 3})
    assert failure.value.metadata["differs"] == "max_concurrency"
    client.unregister_strategy("later")
    house.kill().up()
    with pytest.raises(NotFoundError):
        at(house).get_strategy("later")


def test_without_registration_a_registered_strategy_waits(house: House, at: Door) -> None:
    house.up()
    at(house).register_strategy(LATER)
    first = house.stream(strategy="later", detach=True).send(*many("hold", range(2))).half_close()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    house.wait_for_calls(1)
    house.kill()
    first.drop()
    house.environment = {"BATCH_LLM_SERVER__ALLOW_REGISTRATION": "false"}
    house.up()
    assert house.sidecar is not None
    house.sidecar.wait_for("batch 'b' cannot go on: no strategy 'later'")
    said = "".join(house.sidecar.log)
    assert "strategies that clients registered stay in the journal and are not used: later" in said
    assert [strategy.spec.name for strategy in at(house).list_strategies()] == ["ledger", "narrow"]
    house.kill()
    house.open_the_gate()
    house.environment = {}
    house.up()
    house.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)


def test_a_sidecar_starts_without_the_provider_of_a_registered_strategy(house: House, at: Door) -> None:
    house.environment = SIM
    house.up()
    at(house).register_strategy(CACHED)
    assert house.sidecar is not None
    house.sidecar.stop(signal.SIGKILL)
    house.environment = {}
    house.up()
    assert "strategy 'cached', which a client registered, cannot be used" in "".join(house.sidecar.log)
    with pytest.raises(NotFoundError, match="is registered, but cannot be used here: provider: no provider 'sim'"):
        at(house).get_strategy("cached")
    at(house).unregister_strategy("cached")
    house.stop()
    house.environment = SIM
    house.up()
    with pytest.raises(NotFoundError):
        at(house).get_strategy("cached")


async def test_what_a_strategy_alone_can_see_is_an_invalid_field(tmp_path: Path) -> None:
    provider = OpenAIProvider(base_url="http://127.0.0.1:9/v1")
    settings = Settings.model_validate(
        {"server": {"listen": [f"unix:{tmp_path}/s.sock"], "state_dir": tmp_path / "state"}}
    )
    # The settings would refuse it already; the strategy is the second to look.
    odd = provider.model_copy(update={"base_url": "nowhere"})
    sidecar = Sidecar(settings.model_copy(update={"providers": {"odd": odd, "sound": provider}}))
    await sidecar.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
            register = StrategyServiceStub(channel).RegisterStrategy
            spec = StrategySpec(name="a", provider="odd", model="m")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await register(RegisterStrategyRequest(spec=spec))
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(failure.value) == "INVALID_FIELD"
            assert (failure.value.details() or "").startswith("base_url must be a URL")
            spec.provider = "sound"
            assert (await register(RegisterStrategyRequest(spec=spec))).registered, "nothing of it stayed"
    finally:
        await sidecar.drain()


# -- a fleet -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(start: Start, tmp_path: Path, database: str) -> tuple[House, House]:
    """Two sidecars that share a database."""
    environment = {"BATCH_LLM_JOURNAL__URL": database, "BATCH_LLM_JOURNAL__LEASE_SECONDS": "3", **SIM}
    houses = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        houses.append(House(start, folder, environment).up())
    return houses[0], houses[1]


def test_what_one_sidecar_registers_all_offer(fleet: tuple[House, House], at: Door) -> None:
    _, other = fleet
    here, there = map(at, fleet)

    def name_it(name: str) -> str:
        here.register_strategy({**LATER, "name": name})
        return name

    assert not there.register_strategy({**LATER, "name": name_it("again")})[1]
    assert there.get_strategy(name_it("shown")).spec.retry.max_attempts == 2
    name_it("listed")
    assert {"again", "shown", "listed"} <= {strategy.spec.name for strategy in there.list_strategies()}
    with other.stream(strategy=name_it("opened")) as stream:
        item = WorkItem(item_id="b", prompt="b", strategy=name_it("of-an-item"))
        stream.send(*work("a"), item).half_close()
        assert {result.strategy for result in stream.rest() if not reason_name(result)} == {"opened", "of-an-item"}
    request = pb.ProcessItemRequest(item=WorkItem(item_id="c", prompt="c", strategy=name_it("single")))
    assert not reason_name(other.ask("ProcessItem", request).result)
    here.register_strategy(CACHED)
    assert there.create_or_reuse_cache("cached")[0].strategy == "cached"
    request.item.strategy = "nowhere"
    assert reason_name(other.ask("ProcessItem", request).result) == "STRATEGY_NOT_FOUND"


def test_what_one_sidecar_unregisters_none_offers(fleet: tuple[House, House], at: Door) -> None:
    _, other = fleet
    here, there = map(at, fleet)
    for name in ("shown", "listed", "opened"):
        here.register_strategy({**LATER, "name": name})
    assert {"shown", "listed", "opened"} <= {strategy.spec.name for strategy in there.list_strategies()}
    with other.stream(strategy="opened") as stream:
        stream.send(*work("a")).until(results=1)
        with pytest.raises(FailedPreconditionError):
            there.unregister_strategy("opened")
        for name in ("shown", "listed", "opened"):
            here.unregister_strategy(name)
        with pytest.raises(NotFoundError):
            there.get_strategy("shown")
        with pytest.raises(grpc.RpcError) as failure:
            other.stream(batch_id="new", strategy="opened")
        assert reason_of(failure.value) == "STRATEGY_NOT_FOUND"
        assert "listed" not in {strategy.spec.name for strategy in there.list_strategies()}
        stream.send(*work("b")).half_close()
        assert [reason_name(result) for result in stream.rest()] == ["", ""], "who has it goes on with it"
    here.register_strategy({**LATER, "name": "shown", "max_concurrency": 7})
    assert there.get_strategy("shown").spec.max_concurrency == 7
    there.unregister_strategy("shown")
    with pytest.raises(NotFoundError):
        here.get_strategy("shown")


def test_of_two_specs_at_a_time_one_wins(fleet: tuple[House, House], at: Door) -> None:
    clients = [at(house) for house in fleet]

    def register(name: str, number: int) -> int:
        try:
            _, registered = clients[number].register_strategy({**LATER, "name": name, "max_concurrency": number + 1})
        except AlreadyExistsError:
            return 0
        return number + 1 if registered else -1

    with ThreadPoolExecutor(2) as pool:
        for name in (f"s{number}" for number in range(10)):
            won = list(pool.map(register, (name, name), (0, 1)))
            assert sorted(won) in ([0, 1], [0, 2])
            assert {client.get_strategy(name).spec.max_concurrency for client in clients} == {max(won)}


def test_another_sidecar_takes_up_a_batch_on_a_registered_strategy(fleet: tuple[House, House], at: Door) -> None:
    one, other = fleet
    at(one).register_strategy(LATER)
    at(one).register_strategy({**LATER, "name": "of-items"})
    items = [WorkItem(item_id=f"hold{number}", prompt=f"hold{number}", strategy="of-items") for number in range(3)]
    first = one.stream(strategy="later", detach=True, max_concurrency=1).send(*items, *work("a")).half_close()
    one.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
    one.wait_for_calls(1)
    one.kill()
    first.drop()
    other.open_the_gate()
    other.wait_until(lambda info: info.state == pb.BATCH_STATE_FINISHED)
    with other.stream(strategy="") as second:
        assert [reason_name(result) for result in second.half_close().rest()] == [""] * 4
        check_totals(second, 4)
