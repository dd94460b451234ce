"""Speed, start and memory of a sidecar with the simulated provider: `make bench`.

Figures of one run on one machine; compare rows of a run, not runs. Options: --items N for the long stream, and for the
journal that a killed sidecar leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batch_llm import LLMWorkItem, ParallelBatchProcessor
from batch_llm.strategies.simulated import SimulatedStrategy
from batch_llm_client import BatchClient, BatchLLMClientError, WorkItem

CONFIG = """
[journal]
url = "{journal}"
[providers.simulated]
kind = "simulated"
[strategies.echo]
provider = "simulated"
"""
PROMPT = "a prompt of the length of a support ticket, more or less, so that frames have some weight: " + "x" * 60
LATENCY_CALLS = 2000


@contextmanager
def sidecar(journal: str = "sqlite", state: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A sidecar's target, its process, and the seconds from exec to SERVING.

    Args:
        journal: its url.
        state: a folder that outlives it.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "sidecar.toml")
        config.write_text(CONFIG.format(journal=journal))
        target = f"unix:{folder}/bench.sock"
        command = [Path(sys.executable).with_name("batch-llm-sidecar"), "serve", "--config", str(config)]
        command += ["--listen", target, "--state-dir", state or f"{folder}/state"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert process.stderr is not None
        while b"serving on" not in (line := process.stderr.readline()):
            assert line, f"the sidecar ended with {process.wait()}"
        serving = time.perf_counter() - started
        try:
            yield target, process, serving
        finally:
            process.terminate()
            process.communicate(timeout=60)


def rss_megabytes(process: subprocess.Popen[bytes], which: str = "VmRSS") -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{which}:")]
    return kilobytes / 1024


def items(count: int) -> Iterator[WorkItem]:
    return (WorkItem(str(number), PROMPT) for number in range(count))


def streamed(client: BatchClient, count: int) -> float:
    """Items a second through one stream, results read."""
    started = time.perf_counter()
    with client.process_batch(list(items(count)), strategy="echo") as batch:
        seen = sum(1 for _ in batch)
    assert seen == batch.totals.succeeded == count
    return count / (time.perf_counter() - started)


def latencies(client: BatchClient) -> list[float]:
    """Milliseconds of `ProcessItem`, one after another."""
    item = WorkItem("1", PROMPT, strategy="echo")
    taken = []
    for _ in range(LATENCY_CALLS):
        started = time.perf_counter()
        assert client.process_item(item).ok
        taken.append((time.perf_counter() - started) * 1000)
    return taken


async def in_process(count: int) -> float:
    """Items a second of the same engine without the wire."""
    strategy = SimulatedStrategy()
    async with ParallelBatchProcessor[str, None](max_workers=256) as processor:
        for number in range(count):
            await processor.add_work(LLMWorkItem(str(number), strategy, PROMPT))
        started = time.perf_counter()
        result = await processor.process_all()
    assert result.succeeded == count
    return count / (time.perf_counter() - started)


def memory(client: BatchClient, process: subprocess.Popen[bytes], count: int) -> list[float]:
    """The sidecar's megabytes at each tenth of a long stream."""
    marks = []
    with client.process_batch(items(count), strategy="echo") as batch:
        for done, _ in enumerate(batch, 1):
            if done % (count // 10) == 0:
                marks.append(rss_megabytes(process))
    assert batch.totals.succeeded == count
    return marks


def killed(count: int) -> None:
    """A sidecar that is killed with nine tenths of a batch done, and its successor, which replays them and goes on."""
    with tempfile.TemporaryDirectory() as state:
        with sidecar(state=state) as (target, process, _), BatchClient(target) as client:
            batch = client.process_batch(items(count), strategy="echo", batch_id="large", detach=True, resume=False)
            with batch, suppress(BatchLLMClientError):
                for done, _ in enumerate(batch, 1):
                    if done == count * 9 // 10:
                        process.kill()
        with sidecar(state=state) as (target, process, serving), BatchClient(target) as client:
            show(f"exec to SERVING, {count * 9 // 10:,} results in the journal", f"{serving:.2f} s")
            started = time.perf_counter()
            with client.process_batch(items(count), strategy="echo", batch_id="large") as batch:
                first = next(batch)
                show("to the first replayed result", f"{time.perf_counter() - started:.2f} s")
                seen = 1 + sum(1 for _ in batch)
                rate = seen / (time.perf_counter() - started)
            assert (first.sequence, seen, batch.totals.succeeded) == (1, count, count)
            show("all sent again, replayed or run", f"{rate:,.0f} items/s")
            show("peak memory (RSS) of replaying", f"{rss_megabytes(process, 'VmHWM'):.0f} MiB", "flat")


def show(name: str, value: str, goal: str = "") -> None:
    print(f"{name:<58}{value:>16}  {goal}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="length of the long stream (default 1,000,000)")
    options = parser.parse_args()

    starts = []
    for _ in range(5):
        with sidecar() as (_, process, serving):
            starts.append(serving)
            idle = rss_megabytes(process)
    show("exec to SERVING, median of 5", f"{statistics.median(starts):.2f} s", "goal 0.7 s")
    show("idle memory (RSS)", f"{idle:.1f} MiB", "goal 60 MB")

    engine = asyncio.run(in_process(100_000))
    show("engine in-process, 256 workers", f"{engine:,.0f} items/s")
    with sidecar("memory") as (plain, _, _), sidecar() as (target, process, _):
        with BatchClient(plain) as without, BatchClient(target) as client:
            streamed(without, 2000)
            streamed(client, 2000)
            rates = [(streamed(without, 50_000), streamed(client, 50_000)) for _ in range(3)]
            off, best = (max(column) for column in zip(*rates, strict=True))
            show("through the sidecar, frames of 64, journal in memory", f"{off:,.0f} items/s", "goal 15,000")
            show("through the sidecar, frames of 64, journal on SQLite", f"{best:,.0f} items/s", "goal 10,000")
            taken = sorted(latencies(client))
            middle, slow = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
            show("ProcessItem, p50 / p99", f"{middle:.2f} / {slow:.2f} ms")
        with BatchClient(target, frame_items=1) as client:
            single = streamed(client, 20_000)
            show("through the sidecar, frames of 1", f"{single:,.0f} items/s")
        show("frames of 64 : frames of 1", f"{best / single:.1f}")
        show("in-process : frames of 64", f"{engine / best:.1f}")
        with BatchClient(target) as client:
            marks = memory(client, process, options.items)
        show(f"memory at 1/10 and 10/10 of {options.items:,} items", f"{marks[0]:.0f} / {marks[-1]:.0f} MiB", "flat")
    killed(options.items)


if __name__ == "__main__":
    main()
