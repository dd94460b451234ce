"""`BatchService` where the engine itself fails."""

from pathlib import Path

from batch_llm.caching import SqliteCacheRegistry
from batch_llm.executor import Executor, Work
from batch_llm.model import AnyResult
from batch_llm.sidecar.batch_service import BatchServicer
from batch_llm.sidecar.batches import Batches
from batch_llm.sidecar.catalogue import Catalogue
from batch_llm.sidecar.journals import journal
from batch_llm.sidecar.live_batch import Engine
from batch_llm.sidecar.providers import Providers
from batch_llm.sidecar.registrations import Registrations
from batch_llm.sidecar.settings import JournalSettings, ServerSettings, SimulatedProvider
from batch_llm.sidecar.single_items import SingleItems
from batchllm.v1 import batch_service_pb2, errors_pb2, work_pb2
from batchllm.v1.strategy_service_pb2 import StrategySpec


class Broken(Executor):
    async def run(self, work: Work) -> AnyResult:
        raise KeyError("a bug")


async def test_an_engine_that_fails_on_a_single_item_answers_with_a_result(tmp_path: Path) -> None:
    catalogue = Catalogue(Providers({"sim": SimulatedProvider()}, SqliteCacheRegistry(), tmp_path))
    kept = journal(JournalSettings(url="memory"), tmp_path)
    registrations = Registrations(catalogue, kept)
    entry, _ = await registrations.register(StrategySpec(name="echo", provider="sim"))
    engine = Engine(catalogue, registrations, Broken(), ServerSettings(state_dir=tmp_path), kept)
    servicer = BatchServicer(Batches(engine, retention_seconds=60), SingleItems(engine))
    item = work_pb2.WorkItem(item_id="a", strategy="echo", prompt='{"simulate": {"error": {"status": 503}}}')
    answer = await servicer.ProcessItem(batch_service_pb2.ProcessItemRequest(item=item), None)
    assert answer.result.error.reason == errors_pb2.ERROR_REASON_INTERNAL
    assert "a bug" in answer.result.error.message
    assert entry.shared.users == 1
    await catalogue.close()
