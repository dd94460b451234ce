"""The sidecar as a process: start, health, reflection, drain, bad configuration."""

from __future__ import annotations

import importlib.metadata
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import BatchLLMClientError, ServerDrainingError, UnexpectedError
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub

from .conftest import BIN, SIMULATED, Start, script
from .test_journal import House

SERVING = health_pb2.HealthCheckResponse.SERVING


def health(target: str, service: str = "") -> int:
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status


def test_health_and_reflection_name_all_services(simulated: str) -> None:
    services = ["BatchService", "StrategyService", "CacheLifecycleService"]
    for service in ["", *(f"batchllm.v1.{name}" for name in services)]:
        assert health(simulated, service) == SERVING
    with grpc.insecure_channel(simulated) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {f"batchllm.v1.{name}" for name in services} <= set(database.get_services())
        described = DescriptorPool(database).FindServiceByName("batchllm.v1.BatchService")
    assert [method.name for method in described.methods] == [
        *("ProcessBatch", "ProcessItem", "GetBatch", "ListBatches", "CancelBatch", "DeleteBatch"),
    ]


def test_without_a_file_it_offers_what_works_on_tcp(start: Start, tmp_path: Path) -> None:
    sidecar = start("--listen", "127.0.0.1:0", "--state-dir", str(tmp_path / "state"))
    target = sidecar.wait_for(r"serving on (\S+)")[1]
    with BatchClient(target) as client:
        client.register_strategy({"name": "echo", "provider": "simulated"})
        assert client.process_item(WorkItem("a", "hi", strategy="echo")).text == "simulated: hi"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert sidecar.stop() == 0


def test_the_health_address_serves_health_alone(start: Start) -> None:
    environment = {"BATCH_LLM_SERVER__HEALTH_LISTEN": "127.0.0.1:0"}
    sidecar = start("--listen", "127.0.0.1:0", config=SIMULATED, environment=environment)
    address = sidecar.wait_for(r"health alone on (\S+)")[1]
    assert health(address) == SERVING
    with BatchClient(address) as client, pytest.raises(UnexpectedError) as failure:
        client.list_strategies()
    assert failure.value.code == "UNIMPLEMENTED"
    assert sidecar.stop() == 0


def test_without_a_journal_sigterm_finishes_what_is_held_and_refuses_what_is_new(start: Start, tmp_path: Path) -> None:
    house = House(start, tmp_path, {"BATCH_LLM_JOURNAL__URL": "memory"}).up()
    sidecar = house.sidecar
    assert sidecar is not None
    with BatchClient(house.target) as client:
        held = [WorkItem(prompt, prompt, strategy="narrow") for prompt in ("quick", "hold0", "hold1")]
        with client.process_batch(held, batch_id="b") as batch:
            assert next(iter(batch)).ok
            house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
            sidecar.process.send_signal(signal.SIGTERM)
            sidecar.wait_for("draining")
            with pytest.raises(ServerDrainingError) as refused, client.process_batch([], strategy="ledger") as late:
                list(late)
            assert refused.value.retry_after == 5
            with pytest.raises(ServerDrainingError) as refused_item:
                client.process_item(WorkItem("a", "x", strategy="ledger"))
            assert refused_item.value.reason == "SERVER_DRAINING"
            house.open_the_gate()
            assert [result.ok for result in batch] == [True, True]
        assert batch.totals.succeeded == 3
    assert sidecar.process.wait(timeout=60) == 0
    assert not (tmp_path / "s.sock").exists()


def test_a_stream_that_stays_open_is_told_when_its_items_have_ended(start: Start, tmp_path: Path) -> None:
    house = House(start, tmp_path).up()
    sidecar = house.sidecar
    assert sidecar is not None
    results = []

    def never_ending() -> object:
        yield WorkItem("a", "hold")
        first_sent.wait()

    first_sent = threading.Event()
    try:
        with (
            BatchClient(house.target) as client,
            pytest.raises(ServerDrainingError),
            client.process_batch(never_ending(), strategy="ledger", resume=False) as batch,
        ):
            assert batch.opened.strategy == "ledger"
            house.wait_for_calls(1)
            sidecar.process.send_signal(signal.SIGTERM)
            sidecar.wait_for("draining")
            house.open_the_gate()
            for result in batch:
                results.append(result)  # one by one: the error comes after the last
    finally:
        first_sent.set()
    assert [result.ok for result in results] == [True]
    assert sidecar.process.wait(timeout=60) == 0


def test_without_a_journal_the_drain_limit_ends_items_with_a_result(start: Start, tmp_path: Path) -> None:
    environment = {"BATCH_LLM_SERVER__DRAIN_TIMEOUT_SECONDS": "0.2", "BATCH_LLM_JOURNAL__URL": "memory"}
    house = House(start, tmp_path, environment).up()
    sidecar = house.sidecar
    assert sidecar is not None
    with BatchClient(house.target) as client:
        items = [WorkItem("quick", "x"), *(WorkItem(str(n), "hold") for n in range(5))]
        with client.process_batch(items, strategy="ledger", batch_id="b") as batch:
            assert next(iter(batch)).item_id == "quick"
            house.wait_until(lambda info: info.state == pb.BATCH_STATE_SEALED)
            sidecar.process.send_signal(signal.SIGTERM)
            cut = list(batch)
    assert {result.error.reason for result in cut if result.error} == {"CANCELLED"}
    assert all(result.error and result.error.retryable for result in cut)
    assert len(cut) == 5
    assert sidecar.process.wait(timeout=60) == 0


def test_a_second_signal_exits_at_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "second.sock"
    sidecar = start("--listen", f"unix:{path}", config=SIMULATED)
    sidecar.wait_for("serving on")
    with BatchClient(f"unix:{path}") as client:
        items = [WorkItem("quick", "x"), WorkItem("slow", script(latency_ms=60_000))]
        batch = client.process_batch(items, strategy="echo")
        assert next(iter(batch)).ok
        sidecar.process.send_signal(signal.SIGTERM)
        sidecar.wait_for("draining")
        sidecar.process.send_signal(signal.SIGTERM)
        assert sidecar.process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not path.exists()


def test_an_address_in_use_is_refused_and_a_dead_socket_is_taken_over(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "one.sock"
    first = start("--listen", f"unix:{path}", "--listen", "127.0.0.1:0", config=SIMULATED)
    tcp = first.wait_for(r"serving on unix:\S+, (\S+)")[1]
    for address in (f"unix:{path}", tcp):
        code, message = serve("--listen", address, "--state-dir", str(tmp_path / "state"))
        assert code == 2
        assert address in message
        assert "in use" in message or "another process listens" in message
    assert health(f"unix:{path}") == SERVING  # the first one still has its socket
    first.stop(signal.SIGKILL)
    assert path.exists()
    second = start("--listen", f"unix:{path}", config=SIMULATED)
    second.wait_for("serving on")
    assert health(f"unix:{path}") == SERVING
    assert second.stop() == 0


def test_an_old_sidecar_leaves_the_socket_of_a_new_one_alone(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "rolling.sock"
    old = start("--listen", f"unix:{path}", config=SIMULATED)
    old.wait_for("serving on")
    path.rename(tmp_path / "old.sock")
    new = start("--listen", f"unix:{path}", config=SIMULATED)
    new.wait_for("serving on")
    assert old.stop() == 0
    assert health(f"unix:{path}") == SERVING
    assert new.stop() == 0


def test_a_socket_that_may_not_be_asked_is_not_taken_for_dead(tmp_path: Path) -> None:
    # Root may do anything, so this runs as nobody where the tests run as root.
    path = tmp_path / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        path.chmod(0o600)
        tmp_path.chmod(0o777)
        for folder in tmp_path.parents:
            if folder.owner() == "root" and folder != Path("/") and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        code = "import os, sys; from pathlib import Path; from batch_llm.sidecar.server import _free_socket\n"
        code += "os.getuid() or os.setuid(65534)\n"
        code += "_free_socket(Path(sys.argv[1]), 'server.listen')"
        done = subprocess.run([BIN / "python", "-c", code, path], capture_output=True, text=True)
    assert "another user's socket" in done.stderr, done
    assert path.exists()


def test_a_stream_without_open_does_not_hold_up_the_drain(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    sidecar = start("--listen", f"unix:{path}", config=SIMULATED)
    sidecar.wait_for("serving on")
    silence = threading.Event()

    def frames() -> Iterator[pb.ProcessBatchRequest]:
        silence.wait()
        yield pb.ProcessBatchRequest(open=pb.OpenBatch(strategy="echo"))

    with grpc.insecure_channel(f"unix:{path}") as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        call = BatchServiceStub(channel).ProcessBatch(frames())
        assert health(f"unix:{path}") == SERVING
        sidecar.process.send_signal(signal.SIGTERM)
        sidecar.wait_for("draining")
        with pytest.raises(grpc.RpcError) as failure:
            list(call)
        silence.set()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert sidecar.process.wait(timeout=20) == 0


def test_an_item_that_the_drain_cuts_says_that_the_sidecar_drains(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "item.sock"
    environment = {"BATCH_LLM_SERVER__DRAIN_TIMEOUT_SECONDS": "0.2"}
    sidecar = start("--listen", f"unix:{path}", config=SIMULATED, environment=environment)
    sidecar.wait_for("serving on")
    failures: list[BatchLLMClientError] = []

    def call() -> None:
        with BatchClient(f"unix:{path}") as client:
            try:
                client.process_item(WorkItem("a", script(latency_ms=60_000), strategy="echo"))
            except BatchLLMClientError as error:
                failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    with BatchClient(f"unix:{path}") as client:
        while client.get_strategy("echo").users == 0:
            pass
        sidecar.process.send_signal(signal.SIGTERM)
    thread.join(timeout=60)
    assert [(failure.reason, failure.retry_after) for failure in failures] == [("SERVER_DRAINING", 5)]
    assert sidecar.process.wait(timeout=60) == 0


def test_a_pattern_cannot_stop_the_sidecar(simulated: str) -> None:
    with BatchClient(simulated) as client:
        schema = {"type": "string", "pattern": "^(a+)+$"}
        client.register_strategy({"name": "slow-pattern", "provider": "simulated", "output_json_schema": schema})
        reply = '"' + "a" * 5000 + 'b"'
        result = client.process_item(WorkItem("a", script(reply=reply), strategy="slow-pattern"), timeout=20)
        client.unregister_strategy("slow-pattern")
    assert result.error is not None
    assert result.error.reason == "VALIDATION_FAILED"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("[server]\nlisten_to = 'x'", "server.listen_to: unknown key"),
        (
            "[server]\ndrain_timeout_seconds = 'soon'",
            "server.drain_timeout_seconds: must be a number, without quotes (got 'soon')",
        ),
        ("[server", "is not TOML"),
        ("[providers.x]\nkind = 'gpt'", "providers.x.kind: is 'gpt'; known: simulated, local"),
        ("[providers.l]\nkind = 'local'\nmodel_path = 'no.gguf'", "providers.l.model_path"),
        ("[providers.l]\nkind = 'local'\nslots = 0", "providers.l.slots"),
        ("[strategies.s]\nprovider = 'gemini'", "no provider 'gemini'; known: none"),
        (
            "[providers.s]\nkind='simulated'\n[strategies.s]\nprovider='s'\ncached_content_files=['no.md']",
            "strategies.s.cached_content_files",
        ),
        (
            "[providers.s]\nkind='simulated'\n[strategies.s]\nprovider='s'\ncache_ttl_seconds=60\n"
            "cache_renewal_buffer_seconds=60",
            "cache_renewal_buffer_seconds must be at least 0 and less than cache_ttl_seconds (60)",
        ),
        (
            "[providers.s]\nkind='simulated'\n[strategies.s]\nprovider='s'\noutput_json_schema='{\"type\": 1}'",
            "output_json_schema: is no valid JSON Schema: at type",
        ),
        (
            "[providers.s]\nkind='simulated'\n[strategies.s]\nprovider='s'\n[strategies.s.generation]\ngrammar='x'",
            "strategies.s.generation.grammar: only a local provider can follow one",
        ),
    ],
)
def test_a_bad_configuration_is_explained_by_file_key_and_reason(tmp_path: Path, config: str, expected: str) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(config)
    for command in (["check-config", str(file)], ["serve", "--config", str(file)]):
        done = subprocess.run([BIN / "batch-llm-sidecar", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done
        assert expected in done.stderr
        assert str(file) in done.stderr
        assert "Traceback" not in done.stderr


_MAIN = "import sys; from batch_llm.sidecar.cli import main; sys.exit(main())"
_WITHOUT_PSYCOPG = f"import sys; sys.modules['psycopg'] = None; {_MAIN}"


@pytest.mark.parametrize(
    ("program", "url", "expected"),
    [
        (
            _WITHOUT_PSYCOPG,
            "postgresql://host/database",
            "journal.url: PostgreSQL needs an extra: pip install 'batch-llm[postgres]'\n",
        ),
        (
            _MAIN,
            "postgresql://host/database?color=red",
            'journal.url: the url of PostgreSQL cannot be read: invalid URI query parameter: "color"; '
            "write postgresql://host/database\n",
        ),
    ],
)
def test_a_database_that_cannot_be_used_at_all_is_explained(
    tmp_path: Path, program: str, url: str, expected: str
) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(f'[server]\nstate_dir = "{tmp_path}"\n[journal]\nurl = "{url}"\n')
    command = [sys.executable, "-c", program, "serve", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_missing_file_and_a_directory_that_cannot_be_are_explained(tmp_path: Path) -> None:
    code, message = serve("--config", str(tmp_path / "no.toml"))
    assert (code, "No such file" in message) == (2, True)
    (tmp_path / "file").touch()
    code, message = serve("--state-dir", str(tmp_path / "file"))
    assert (code, "server.state_dir" in message) == (2, True)
    code, message = serve("--listen", f"unix:{tmp_path}/no/dir.sock", "--state-dir", str(tmp_path / "state"))
    assert (code, "does not exist" in message) == (2, True)


def test_start_loads_no_provider_library() -> None:
    heavy = ["httpx2", "xllamacpp", "jsonschema", "google.genai", "rich", "google.rpc"]
    code = f"import sys, batch_llm.sidecar.server; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def serve(*arguments: str) -> tuple[int, str]:
    command = [BIN / "batch-llm-sidecar", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_only_with_gemini_it_says_which_sdk_it_has(start: Start) -> None:
    gemini = '[providers.g]\nkind = "gemini"\nbase_url = "http://127.0.0.1:9"\n'
    sidecar = start("--listen", "127.0.0.1:0", config=gemini, environment={"GEMINI_API_KEY": "key"})
    assert sidecar.wait_for(r"google-genai (\S+)")[1] == importlib.metadata.version("google-genai")
    other = start("--listen", "127.0.0.1:0", config=SIMULATED)
    other.wait_for("serving on")
    assert "google-genai" not in "".join(other.log)
