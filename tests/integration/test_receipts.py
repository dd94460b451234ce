"""Receipts of a real sidecar, through the client and the command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from batch_llm.strategies.prices import release_date
from batch_llm_client import BatchClient, Receipt, WorkItem

from .conftest import BIN, Start, script
from .test_python_provider import ENVIRONMENT, HERE

TOKENS = 1000
CONFIG = f"""
[providers.simulated]
kind = "simulated"
[providers.priced]
kind = "python"
factory = "{HERE}:priced"
[strategies.known]
provider = "priced"
model = "known"
cached_content = ["{"x" * 4 * TOKENS}"]
retry = {{initial_wait_seconds = 0}}
[strategies.unknown]
provider = "priced"
model = "gemini-99-ultra"
[strategies.free]
provider = "simulated"
retry = {{initial_wait_seconds = 0}}
"""
USAGE = {"input_tokens": 1100, "cached_input_tokens": 1000, "output_tokens": 30, "thinking_tokens": 10}
FAILS_ONCE = script(errors=[{"status": 503, "input_tokens": 50, "output_tokens": 0, "cached_input_tokens": 0}], **USAGE)


@pytest.fixture(scope="module")
def target(start: Start) -> Iterator[str]:
    sidecar = start("--listen", "127.0.0.1:0", config=CONFIG, environment=ENVIRONMENT)
    yield sidecar.wait_for(r"serving on (\S+)")[1]
    assert sidecar.stop() == 0


@pytest.fixture
def client(target: str) -> Iterator[BatchClient]:
    with BatchClient(target, timeout=60) as client:
        yield client


def test_items_storage_and_creation_add_up_to_the_batch(client: BatchClient) -> None:
    items = [WorkItem("1", script(**USAGE)), WorkItem("2", FAILS_ONCE)]
    with client.process_batch(items, strategy="known") as batch:
        results = {result.item_id: result for result in batch}
    one, two, whole = results["1"].receipt, results["2"].receipt, batch.totals.receipt
    assert whole is not None
    assert (one.fresh_input_tokens, one.cached_input_tokens, one.output_tokens, one.thinking_tokens) == (
        100,
        1000,
        20,
        10,
    )
    assert one.total_nano_usd == 100 * 300 + 1000 * 30 + 30 * 2500
    assert one.uncached_nano_usd == 1100 * 300 + 30 * 2500
    assert (two.failed_attempt_tokens, two.failed_attempt_nano_usd) == (50, 50 * 300)
    assert whole.price_date == one.price_date == date(2026, 11, 10)
    assert whole.total_nano_usd == (
        (one.total_nano_usd or 0)
        + (two.total_nano_usd or 0)
        + whole.cache_creation_nano_usd
        + whole.cache_storage_nano_usd
    )
    assert (whole.cache_creation_tokens, whole.cache_creation_nano_usd) == (TOKENS, TOKENS * 300)
    assert whole.failed_attempt_tokens == 50
    assert 0 < whole.storage_until_expiry_nano_usd <= TOKENS * 1000
    assert whole.total_usd is not None
    (advice,) = whole.advice
    assert "costs more than it saves" in advice
    with client.process_batch(items, strategy="known") as batch:
        list(batch)
    again = batch.totals.receipt
    assert again is not None
    assert (again.cache_creation_tokens, again.advice) == (0, ()), "paid, and said"


def test_a_model_that_is_not_in_the_list_costs_nobody_knows_what(client: BatchClient) -> None:
    with client.process_batch([WorkItem("1", script(**USAGE))], strategy="unknown") as batch:
        (result,) = batch
    for receipt in (result.receipt, batch.totals.receipt):
        assert receipt is not None
        assert (receipt.total_nano_usd, receipt.uncached_nano_usd, receipt.unpriced_tokens) == (None, None, 1130)
        assert receipt.price_date == release_date("0.2.3")


def test_providers_without_prices_have_tokens_alone(client: BatchClient) -> None:
    items = [WorkItem("1", script(**USAGE)), WorkItem("2", FAILS_ONCE), WorkItem("3", script(error={"status": 400}))]
    with client.process_batch(items, strategy="free") as batch:
        results = {result.item_id: result for result in batch}
    one = results["1"].receipt
    assert one == Receipt(
        fresh_input_tokens=100, cached_input_tokens=1000, output_tokens=20, thinking_tokens=10, unpriced_tokens=1130
    )
    assert results["2"].receipt.failed_attempt_tokens == 50
    assert results["3"].receipt == Receipt(total_nano_usd=0, uncached_nano_usd=0)
    whole = batch.totals.receipt
    assert whole is not None
    assert (whole.total_nano_usd, whole.price_date, whole.unpriced_tokens) == (None, None, 2310)


@pytest.mark.parametrize(
    ("strategy", "shown", "hidden"),
    [
        ("known", ["prices of 2026-11-10", "cached input", "without a cache", "failed attempts"], ["cost unknown"]),
        ("unknown", ["cost unknown: 1,180 tokens without a known price"], ["USD"]),
        ("free", [], ["cost", "USD"]),
    ],
)
def test_the_command_prints_the_receipt(
    target: str, tmp_path: Path, strategy: str, shown: list[str], hidden: list[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "1", "prompt": FAILS_ONCE}) + "\n")
    done = subprocess.run(
        [BIN / "batch-llm", "--target", target, "run", rows, "--strategy", strategy],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    for text in shown:
        assert text in done.stderr
    for text in hidden:
        assert text not in done.stderr
    line = json.loads(done.stdout)
    assert line.get("cost_nano_usd", "-") == {"known": 150_000, "unknown": None, "free": "-"}[strategy]
