"""A real model on this machine through a real sidecar: cache, counts, grammar, restart, faults."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_llm.strategies.local.files import BUNDLED_SHA256
from batch_llm_client import BatchClient, WorkItem

from .conftest import REPO, SidecarProcess, Start

pytestmark = [pytest.mark.local_model, pytest.mark.timeout(300)]

CONFIG = f"""
[providers.local]
kind = "local"
context_tokens = 2048
[strategies.triage]
provider = "local"
cached_content_files = ["{REPO}/examples/triage/handbook.md"]
[strategies.triage.generation]
temperature = 0
max_output_tokens = 8
grammar = 'root ::= " " ("billing" | "shipping" | "return" | "account")'
[strategies.json]
provider = "local"
output_json_schema = '''{{"type": "object", "properties": {{"n": {{"enum": [1, 2]}}}}, "required": ["n"],
 "additionalProperties": false}}'''
[strategies.json.generation]
temperature = 0
max_output_tokens = 40
[strategies.free]
provider = "local"
[strategies.free.generation]
temperature = 0
max_output_tokens = 4
[strategies.endless]
provider = "local"
attempt_timeout_seconds = 0.5
[strategies.endless.retry]
max_attempts = 1
[strategies.endless.generation]
grammar = 'root ::= "a" root'
"""
TICKET = WorkItem("t", "Ticket: My parcel has not arrived yet.\nLabel:")


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local-state")


@pytest.fixture(scope="module")
def sidecar(start: Start, state_dir: Path) -> SidecarProcess:
    return start("--listen", "127.0.0.1:0", "--state-dir", str(state_dir), config=CONFIG)


@pytest.fixture(scope="module")
def local(sidecar: SidecarProcess) -> Iterator[BatchClient]:
    with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1], timeout=120) as client:
        yield client


def ticket(client: BatchClient) -> float:
    """Label one ticket; the share of its input that was cached."""
    with client.process_batch([TICKET], strategy="triage") as batch:
        (result,) = batch
    assert (result.ok, result.text, result.finish_reason) == (True, " shipping", "stop"), result
    return result.usage.cached_input_tokens / result.usage.input_tokens


def test_the_prefix_is_read_once_and_its_tokens_count_as_cached(local: BatchClient, state_dir: Path) -> None:
    cache, reused = local.create_or_reuse_cache("triage")
    assert not reused
    assert 1000 < cache.total_token_count < 1600
    assert cache.fingerprint in cache.name
    (file,) = (state_dir / "prefixes").iterdir()
    assert file.name == cache.name
    assert ticket(local) > 0.9
    with local.process_batch(
        [WorkItem(str(n), f"Ticket: I want my money back, it is broken ({n}).\nLabel:") for n in range(8)],
        strategy="triage",
    ) as batch:
        assert {result.text for result in batch} <= {" billing", " shipping", " return", " account"}
    assert batch.totals.cache_hit_rate > 90
    assert local.get_strategy("triage").prepared


def test_other_strategies_share_the_model_and_leave_the_prefix_alone(local: BatchClient) -> None:
    first = local.process_item(WorkItem("a", "One, two, three, four,", strategy="free"))
    assert (first.ok, first.finish_reason, first.usage.output_tokens) == (True, "length", 4)
    assert first.model == "gemma-3-270m-q4_k_m"
    answer = local.process_item(WorkItem("a", "A number as JSON:", strategy="json"))
    assert json.loads(answer.text or "")["n"] in {1, 2}
    assert ticket(local) > 0.9


def test_a_prompt_that_does_not_fit_fails_with_the_counts(local: BatchClient) -> None:
    result = local.process_item(WorkItem("a", "word " * 3000, strategy="free"))
    assert result.error is not None
    assert (result.error.reason, result.attempts) == ("CONTEXT_LENGTH_EXCEEDED", 1)
    assert result.error.metadata["context_tokens"] == "2048"
    assert int(result.error.metadata["prompt_tokens"]) > 3000


def test_an_attempt_that_takes_too_long_is_stopped_and_frees_its_slot(local: BatchClient) -> None:
    with local.process_batch([WorkItem(str(n), "a", strategy="endless") for n in range(4)]) as batch:
        reasons = [result.error.reason if result.error else None for result in batch]
    assert reasons == ["ATTEMPT_TIMEOUT"] * 4
    assert ticket(local) > 0.9


def test_a_model_process_that_dies_is_started_again(local: BatchClient, sidecar: SidecarProcess) -> None:
    (worker,) = workers_of(sidecar.process.pid)
    os.kill(worker, signal.SIGKILL)
    assert ticket(local) > 0.9
    assert workers_of(sidecar.process.pid) != [worker]


def test_delete_removes_the_file_and_the_next_item_makes_it_again(local: BatchClient, state_dir: Path) -> None:
    name = local.get_cache("triage").name
    assert local.delete_cache("triage")
    assert not (state_dir / "prefixes" / name).exists()
    assert ticket(local) > 0.9
    assert local.get_cache("triage").name == name


def test_a_file_that_was_lost_or_damaged_costs_time_but_no_result(local: BatchClient, state_dir: Path) -> None:
    file = state_dir / "prefixes" / local.get_cache("triage").name
    file.unlink()
    assert not local.create_or_reuse_cache("triage")[1]
    file.write_bytes(b"garbage")
    for _ in range(3):
        local.process_item(WorkItem("a", "One, two,", strategy="free"))
    with local.process_batch([TICKET, WorkItem("u", TICKET.prompt)], strategy="triage") as batch:
        assert [result.text for result in batch] == [" shipping", " shipping"]
    local.delete_cache("triage")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_sidecar_restores_the_prefix(start: Start, state_dir: Path, end: signal.Signals) -> None:
    for restored in (False, True):
        # Another sidecar has the journal of this directory; caches and models may be shared.
        own = {"BATCH_LLM_JOURNAL__URL": "memory"}
        sidecar = start("--listen", "127.0.0.1:0", "--state-dir", str(state_dir), config=CONFIG, environment=own)
        with BatchClient(sidecar.wait_for(r"serving on (\S+)")[1], timeout=120) as client:
            if not restored:
                client.delete_cache("triage")
            assert client.create_or_reuse_cache("triage")[1] is restored
            assert ticket(client) > 0.9
        if restored:
            sidecar.wait_for(r"slot \d: restored 1\d\d\d tokens")
        (worker,) = workers_of(sidecar.process.pid)
        sidecar.stop(end)
        wait_until_gone(worker)


def test_a_bad_model_file_is_named(start: Start, state_dir: Path, tmp_path: Path) -> None:
    model = next((state_dir / "models").glob("*.gguf"))
    (tmp_path / "text.gguf").write_text("no model")
    with model.open("rb") as whole:
        (tmp_path / "half.gguf").write_bytes(whole.read(100 * 1024 * 1024))
    config = "".join(
        f"[providers.{name}]\nkind = 'local'\nmodel_path = '{file}'\n{more}\n[strategies.{name}]\nprovider = '{name}'\n"
        for name, file, more in (
            ("text", tmp_path / "text.gguf", ""),
            ("half", tmp_path / "half.gguf", ""),
            ("sum", model, f"model_sha256 = '{'0' * 64}'"),
            ("gone", tmp_path / "gone.gguf", ""),
        )
    )
    (tmp_path / "gone.gguf").touch()
    sidecar = start("--listen", "127.0.0.1:0", config=config)
    target = sidecar.wait_for(r"serving on (\S+)")[1]
    (tmp_path / "gone.gguf").unlink()
    expected = {
        "text": "is no GGUF file",
        "half": "llama.cpp cannot load",
        "sum": f"has SHA-256 {BUNDLED_SHA256}",
        "gone": "No such file",
    }
    with BatchClient(target, timeout=120) as client:
        for name, message in expected.items():
            result = client.process_item(WorkItem("a", "x", strategy=name))
            assert result.error is not None
            assert result.error.reason == "PREPARE_FAILED"
            assert message in result.error.message
            assert str(tmp_path if name != "sum" else model) in result.error.message
    assert sidecar.stop() == 0


def workers_of(parent: int) -> list[int]:
    """The processes that a sidecar started and that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        facts = facts_of(int(process.name))
        if facts is not None and facts == ("alive", parent):
            found.append(int(process.name))
    return found


def facts_of(pid: int) -> tuple[str, int] | None:
    """Whether a process is alive, and its parent; None if there is none."""
    try:
        # The name in brackets may hold spaces; state and parent follow it.
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return ("dead" if state == "Z" else "alive"), int(parent)


def wait_until_gone(pid: int) -> None:
    """The worker notices by itself that its sidecar has ended."""
    end = time.monotonic() + 30
    while (facts := facts_of(pid)) is not None and facts[0] == "alive":
        assert time.monotonic() < end, f"the worker {pid} outlived its sidecar"
        os.sched_yield()
