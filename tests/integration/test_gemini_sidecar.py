"""Provider `gemini` of real sidecar processes, with the real SDK; what is counted are the requests at the emulator."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from batch_llm.emulator import GeminiEmulator
from batch_llm_client import BatchClient, Result, WorkItem
from batch_llm_client.errors import BatchLLMClientError
from batchllm.v1 import cache_lifecycle_service_pb2 as pb
from batchllm.v1.cache_lifecycle_service_pb2_grpc import CacheLifecycleServiceStub

from .conftest import BIN, SidecarProcess, Start, script
from .gemini import HANDBOOK, MODEL, bodies, counts, new_key

SCHEMA = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}
Register = Callable[..., str]


def config(emulator: GeminiEmulator, **strategies: str) -> str:
    """An operator's file."""
    sections = "".join(
        f'[strategies.{name}]\nprovider = "gemini"\nmodel = "{MODEL}"\nsystem_instruction = "Label the ticket."\n'
        f'retry = {{ initial_wait_seconds = 0, max_wait_seconds = 0 }}\ncached_content = ["{HANDBOOK}"]\n{more}\n'
        for name, more in strategies.items()
    )
    return (
        f'[providers.gemini]\nkind = "gemini"\nbase_url = "{emulator.url}"\nmax_concurrency = 10\n'
        f"rate_limit = {{ cooldown_seconds = 0, slow_start_items = 0 }}\n{sections}"
    )


def serve(
    start: Start, emulator: GeminiEmulator, *arguments: str, key: str, journal: str = "sqlite", **strategies: str
) -> SidecarProcess:
    sidecar = start(
        "--listen",
        "127.0.0.1:0",
        *arguments,
        config=config(emulator, **strategies),
        environment={"GEMINI_API_KEY": key, "BATCH_LLM_JOURNAL__URL": journal},
    )
    sidecar.target = sidecar.wait_for(r"serving on (\S+)")[1]
    return sidecar


@pytest.fixture(scope="module")
def target(start: Start, gemini_emulator_process: GeminiEmulator) -> Iterator[str]:
    sidecar = serve(start, gemini_emulator_process, key=new_key())
    yield sidecar.target
    assert sidecar.stop() == 0


@pytest.fixture
def client(target: str, gemini_emulator: GeminiEmulator) -> Iterator[BatchClient]:
    with BatchClient(target, timeout=60) as client:
        yield client


@pytest.fixture
def register(client: BatchClient) -> Register:
    """Registers strategies with a content that no other test has."""

    def register(**fields: Any) -> str:
        name = f"s-{uuid.uuid4().hex[:8]}"
        spec = {
            "name": name,
            "provider": "gemini",
            "model": MODEL,
            "cached_content": [f"{name}: {HANDBOOK}"],
            "retry": {"initial_wait_seconds": 0, "max_wait_seconds": 0},
            **fields,
        }
        client.register_strategy({field: value for field, value in spec.items() if value is not None})
        return name

    return register


def run(client: BatchClient, strategy: str, prompts: int | list[str] = 10) -> list[Result]:
    if isinstance(prompts, int):
        prompts = [f"ticket {number}" for number in range(prompts)]
    items = [WorkItem(str(number), prompt) for number, prompt in enumerate(prompts)]
    with client.process_batch(items, strategy=strategy) as batch:
        return list(batch)


def all_first_time(results: list[Result], items: int = 10) -> None:
    assert [(result.ok, result.error, result.attempts) for result in results] == [(True, None, 1)] * items


# -- one cache for all -------------------------------------------------------------------------------------------------


def test_two_sidecars_with_one_state_share_a_cache(
    start: Start, gemini_emulator: GeminiEmulator, tmp_path: Path
) -> None:
    key = new_key()
    state = ("--state-dir", str(tmp_path))  # a journal of its own for each: only caches may be shared
    sidecars = [serve(start, gemini_emulator, *state, key=key, journal="memory", triage="") for _ in range(2)]
    held = gemini_emulator.hold(kind="create")
    with ThreadPoolExecutor() as pool, BatchClient(sidecars[0].target) as one, BatchClient(sidecars[1].target) as two:
        batches = [pool.submit(run, client, "triage") for client in (one, two)]
        gemini_emulator.wait_for("create", timeout=60)
        gemini_emulator.release(held)
        for batch in batches:
            all_first_time(batch.result())
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 20}
    assert [sidecar.stop() for sidecar in sidecars] == [0, 0]
    assert len(gemini_emulator.caches("ACTIVE")) == 1  # ending deletes none


def test_the_next_run_uses_the_cache_of_the_last(start: Start, gemini_emulator: GeminiEmulator, tmp_path: Path) -> None:
    key = new_key()
    # Once more with the same state, which knows the cache, and then without, as on another machine.
    for state, made, listings in (
        ("one", "Created", 1),
        ("one", "Reusing existing", 1),
        ("two", "Reusing existing", 2),
    ):
        sidecar = serve(start, gemini_emulator, "--state-dir", str(tmp_path / state), key=key, triage="")
        with BatchClient(sidecar.target) as client:
            all_first_time(run(client, "triage"))
        assert sidecar.stop() == 0
        assert re.findall(r"(\S+(?: existing)?) Gemini cache", sidecar.whole_log()) == [made]
        assert gemini_emulator.count("list") == listings
    assert counts(gemini_emulator) == {"list": 2, "create": 1, "generate": 30}
    assert [cache["state"] for cache in gemini_emulator.caches()] == ["ACTIVE"]


def test_a_sidecar_that_is_killed_before_it_knew_its_cache_leaves_no_orphan(
    start: Start, gemini_emulator: GeminiEmulator
) -> None:
    key = new_key()
    gemini_emulator.fail(drop="after", kind="create")
    gemini_emulator.hold(kind="list", skip=1, times=1)
    killed = serve(start, gemini_emulator, key=key, triage="")
    with BatchClient(killed.target) as client, ThreadPoolExecutor() as pool:
        batch = pool.submit(run, client, "triage")
        gemini_emulator.wait_for("list", 2, timeout=60)
        killed.stop(signal.SIGKILL)
        with pytest.raises(BatchLLMClientError):
            batch.result()
    again = serve(start, gemini_emulator, key=key, triage="")
    with BatchClient(again.target) as client:
        all_first_time(run(client, "triage"))
    assert again.stop() == 0
    assert counts(gemini_emulator) == {"list": 3, "create": 1, "generate": 10}


@pytest.mark.parametrize("style", ["permission_denied", "expired"])
def test_a_cache_that_expires_under_ten_calls_is_made_anew_once(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator, style: str
) -> None:
    gemini_emulator.configure(missing_cache=style)
    strategy = register()
    held = gemini_emulator.hold(kind="generate")
    with ThreadPoolExecutor() as pool:
        batch = pool.submit(run, client, strategy)
        gemini_emulator.wait_for("generate", 10, timeout=60)
        gemini_emulator.advance(3600)
        gemini_emulator.release(held)
        all_first_time(batch.result())
    assert counts(gemini_emulator) == {"list": 2, "create": 2, "generate": 20}


def test_an_expired_cache_is_an_error_without_auto_renew(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator
) -> None:
    strategy = register(auto_renew=False)
    all_first_time(run(client, strategy))
    gemini_emulator.advance(3600)
    errors = [result.error for result in run(client, strategy)]
    assert {error and (error.reason, error.retryable) for error in errors} == {("CACHE_EXPIRED", False)}
    assert gemini_emulator.count("create") == 1
    assert gemini_emulator.count("update") == 0


# -- CacheLifecycleService ---------------------------------------------------------------------------------------------


def test_the_life_of_a_cache(
    client: BatchClient, register: Register, target: str, gemini_emulator: GeminiEmulator
) -> None:
    strategy = register()
    created, reused = client.create_or_reuse_cache(strategy, ttl=100)
    assert not reused
    assert created.state == pb.CACHE_STATE_EXPIRING
    assert created.total_token_count == -(-len(f"{strategy}: {HANDBOOK}") // 4)
    assert (created.name, created.model, created.provider) == (gemini_emulator.caches()[0]["name"], MODEL, "gemini")
    assert created.fingerprint == gemini_emulator.caches()[0]["displayName"]
    assert client.create_or_reuse_cache(strategy, ttl=900) == (created, True)
    all_first_time(run(client, strategy))  # and it is renewed meanwhile, since less than 300 s are left
    gemini_emulator.wait_for("update", timeout=60)
    renewed, recreated = client.renew_cache(strategy, ttl=900)
    assert (renewed.name, renewed.state, recreated) == (created.name, pb.CACHE_STATE_ACTIVE, False)
    assert client.get_cache(strategy) == renewed
    assert renewed in client.list_caches()
    gemini_emulator.advance(900)
    third, recreated = client.renew_cache(strategy)
    assert (third.name != created.name, third.state, recreated) == (True, pb.CACHE_STATE_ACTIVE, True)
    with grpc.insecure_channel(target) as channel, ThreadPoolExecutor(10) as pool:
        stub = CacheLifecycleServiceStub(channel)
        asked = pb.DeleteRequest(strategy=strategy)
        deleted = [answer.result() for answer in [pool.submit(stub.Delete, asked) for _ in range(10)]]
    (one,) = [answer for answer in deleted if answer.deleted]
    assert (one.cache.name, one.cache.state) == (third.name, pb.CACHE_STATE_DELETED)
    asked = counts(gemini_emulator)
    assert 1 <= asked.pop("list") <= 10  # those that came when it was gone have looked for one
    assert asked == {"create": 2, "update": 3, "generate": 10, "delete": 1}
    assert gemini_emulator.caches("ACTIVE") == []


@pytest.mark.parametrize(
    ("settings", "fields", "state", "says"),
    [
        ({"free_tier": True}, {}, pb.CACHE_STATE_UNCACHED_UNAVAILABLE, "free tier"),
        ({}, {"cached_content": ["small"]}, pb.CACHE_STATE_UNCACHED_TOO_SMALL, "caches 1024 or more"),
    ],
)
def test_where_google_does_not_cache_the_cache_says_so_and_items_run(
    target: str,
    client: BatchClient,
    register: Register,
    gemini_emulator: GeminiEmulator,
    settings: dict[str, Any],
    fields: dict[str, Any],
    state: int,
    says: str,
) -> None:
    gemini_emulator.configure(**settings)
    strategy = register(**fields)
    all_first_time(run(client, strategy))
    cache = client.get_cache(strategy)
    assert (cache.state, cache.name) == (state, "")
    assert says in cache.message
    assert counts(gemini_emulator) == {"list": 1, "create": 1, "generate": 10}
    assert client.create_or_reuse_cache(strategy) == (cache, False)
    assert gemini_emulator.count("create") == 2
    assert cache in client.list_caches()
    shown = command(target, "list", "--json"), command(target, "create", strategy), command(target, "list")
    assert says in shown[0]
    assert f"{strategy}: no cache: " in shown[1]
    assert "uncached" in shown[2]
    gemini_emulator.configure(free_tier=False, min_cached_tokens=1)
    cache, _ = client.create_or_reuse_cache(strategy)
    assert (cache.state, cache.message) == (pb.CACHE_STATE_ACTIVE, "")


def command(target: str, *arguments: str) -> str:
    """What `batch-llm caches` prints."""
    line = [BIN / "batch-llm", "caches", "--target", target, *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


# -- calls -------------------------------------------------------------------------------------------------------------


def test_what_gemini_says_of_an_answer_reaches_the_client(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator
) -> None:
    strategy = register(
        system_instruction="Be brief.",
        generation={"temperature": 0.5, "thinking_budget": 100, "tools": ['{"googleSearch": {}}']},
    )
    ratings = {"HARM_CATEGORY_HARASSMENT": "LOW"}
    (result,) = run(client, strategy, [script(reply="billing", safety_ratings=ratings, thinking_tokens=30)])
    assert (result.text, result.finish_reason, result.safety_ratings) == ("billing", "STOP", ratings)
    assert result.usage.thinking_tokens == 30
    assert result.usage.cached_input_tokens == client.get_cache(strategy).total_token_count
    created, asked = (json.loads(bodies(gemini_emulator, kind)[0]) for kind in ("create", "generate"))
    assert created["tools"] == [{"googleSearch": {}}]
    assert created["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert asked["generationConfig"]["temperature"] == 0.5
    assert not {"tools", "systemInstruction"} & set(asked)


def test_blocked_and_empty_answers_fail_with_their_tokens(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator
) -> None:
    strategy = register()
    said = ({"finish_reason": "SAFETY"}, {"block_reason": "SAFETY"}, {"no_candidates": True})
    results = run(client, strategy, [script(**each, thinking_tokens=9) for each in said])
    failures = {result.item_id: (result.error and result.error.reason, result.attempts) for result in results}
    assert failures == {
        "0": ("CONTENT_BLOCKED", 1),
        "1": ("CONTENT_BLOCKED", 1),
        "2": ("PROVIDER_UNAVAILABLE", 3),
    }
    for result in results:
        assert result.usage.thinking_tokens == 9 * result.attempts
        assert result.usage.cached_input_tokens > 1000 * result.attempts


def test_an_answer_that_is_no_label_goes_one_model_higher_which_has_its_own_cache(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator
) -> None:
    strategy = register(output_json_schema=SCHEMA, escalation_models=["gemini-2.5-pro"])
    (result,) = run(client, strategy, [script(replies=["logistics", '{"team": "logistics"}'])])
    assert (result.text, result.attempts, result.message.model) == ('{"team": "logistics"}', 2, "gemini-2.5-pro")
    assert counts(gemini_emulator) == {"list": 2, "create": 2, "generate": 2}
    assert {cache["model"] for cache in gemini_emulator.caches()} == {f"models/{MODEL}", "models/gemini-2.5-pro"}
    sent = json.loads(bodies(gemini_emulator, "generate")[0])["generationConfig"]
    assert sent["responseJsonSchema"] == SCHEMA
    assert sent["responseMimeType"] == "application/json"


def test_quotas_by_minute_and_by_day(client: BatchClient, register: Register, gemini_emulator: GeminiEmulator) -> None:
    # Models of their own, as the pause that the first asks for is the model's.
    strategy = register(model="gemini-2.0-flash", retry={"max_rate_limit_retries": 0, "initial_wait_seconds": 0})
    gemini_emulator.fail(quota="requests_per_minute", retry_after_seconds=57.2, kind="generate")
    (result,) = run(client, strategy, ["a"])
    assert result.error is not None
    assert (result.error.reason, result.error.retryable) == ("RATE_LIMITED", True)
    assert result.error.retry_after == pytest.approx(57.2, abs=0.01)
    strategy = register(model="gemini-2.0-flash-lite")
    gemini_emulator.fail(quota="requests_per_day", kind="generate", times=None)
    results = run(client, strategy, 5)
    assert {(each.error and each.error.reason, each.error and each.error.retryable) for each in results} == {
        ("RATE_LIMITED", False)
    }
    assert gemini_emulator.count("generate") == 6


def test_connections_that_are_dropped_cost_an_attempt(
    client: BatchClient, register: Register, gemini_emulator: GeminiEmulator
) -> None:
    gemini_emulator.fail(drop="middle", kind="create")
    gemini_emulator.fail(drop="middle", kind="generate")
    results = run(client, register())
    assert sorted(result.attempts for result in results if result.ok) == [1] * 9 + [2]
    assert counts(gemini_emulator) == {"list": 2, "create": 1, "generate": 11}


def test_a_bad_key_is_named_and_nothing_is_tried_again(start: Start, gemini_emulator: GeminiEmulator) -> None:
    sidecar = serve(start, gemini_emulator, key="bad-key", triage="")
    with BatchClient(sidecar.target) as client:
        (result,) = run(client, "triage", 1)
        assert result.error is not None
        assert (result.error.reason, result.error.retryable) == ("AUTHENTICATION_FAILED", False)
        assert counts(gemini_emulator) == {"list": 1}
        with pytest.raises(BatchLLMClientError) as caught:
            client.create_or_reuse_cache("triage")
        assert caught.value.reason == "AUTHENTICATION_FAILED"
        assert counts(gemini_emulator) == {"list": 2}
    assert sidecar.stop() == 0
    assert "bad-key" not in sidecar.whole_log()


# -- Vertex AI ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def token_endpoint() -> Iterator[str]:
    """Gives access tokens to whoever asks, as Google does to a service account."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = json.dumps({"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def test_vertex_ai_with_application_default_credentials(
    start: Start, gemini_emulator: GeminiEmulator, token_endpoint: str, tmp_path: Path
) -> None:
    gemini_emulator.configure(keys={"a-token": "shop"})
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "private_key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        "client_email": "sidecar@shop.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_endpoint,
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    located = config(gemini_emulator, triage="").replace(
        'kind = "gemini"\n', 'kind = "gemini"\nproject = "shop"\nlocation = "europe-west4"\n'
    )
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"), "NO_PROXY": "127.0.0.1"}
    sidecar = start("--listen", "127.0.0.1:0", config=located, environment=environment)
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1]) as client:
        all_first_time(run(client, "triage"))
        gemini_emulator.advance(3600)
        all_first_time(run(client, "triage"))
        assert client.get_cache("triage").name.startswith("projects/shop/locations/europe-west4/cachedContents/")
        assert client.delete_cache("triage")
    assert sidecar.stop() == 0
    assert {request["api"] for request in gemini_emulator.requests()} == {"vertex"}
    assert counts(gemini_emulator, status=200) == {"list": 2, "create": 2, "generate": 20, "delete": 1}
