"""CPU of a Gemini call through the sidecar, beside a bare `asyncio.gather` on google-genai: part of `make bench`.

Both call the same emulator on this machine, with as many in flight, on one context cache of 20,000 tokens; what
counts is the CPU time of the calling process, without its start. The application's own part, a gRPC client, is shown
apart. Then the same items without a cache, and the two receipts.

Options: --items N, --in-flight N.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_llm.emulator.process import running_emulator
from batch_llm_client import BatchClient, Receipt, WorkItem

MODEL = "gemini-2.5-flash"
HANDBOOK = "A rule of the handbook, as long as rules tend to be; it says what to do and when. " * 1000
KEY = "bench"
CONFIG = """
[providers.gemini]
kind = "gemini"
base_url = "{url}"
max_concurrency = {in_flight}
[strategies.cached]
provider = "gemini"
model = "{model}"
cached_content_files = ["handbook.txt"]
[strategies.uncached]
provider = "gemini"
model = "{model}"
system_instruction = "{handbook}"
"""


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def bare(url: str, items: int, in_flight: int) -> None:
    """What one would write by hand: a client, a semaphore, a gather."""
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=url, api_version="v1beta")
    client = genai.Client(api_key=KEY, vertexai=False, http_options=options)
    cache = await client.aio.caches.create(
        model=MODEL, config=types.CreateCachedContentConfig(contents=[HANDBOOK], ttl="3600s")
    )
    config = types.GenerateContentConfig(cached_content=cache.name)
    turn = asyncio.Semaphore(in_flight)

    async def call(number: int) -> str:
        async with turn:
            response = await client.aio.models.generate_content(model=MODEL, contents=f"item {number}", config=config)
            return response.text or ""

    await asyncio.gather(*(call(number) for number in range(in_flight)))  # connections are open
    before, started = own_cpu(), time.perf_counter()
    texts = await asyncio.gather(*(call(number) for number in range(items)))
    used, took = own_cpu() - before, time.perf_counter() - started
    assert all(texts)
    print(f"{used / items * 1000:.3f} {items / took:.0f}")


@contextmanager
def sidecar(url: str, in_flight: int) -> Iterator[tuple[str, int]]:
    """A sidecar's target and process id."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "handbook.txt").write_text(HANDBOOK)
        config = Path(folder, "sidecar.toml")
        config.write_text(CONFIG.format(url=url, in_flight=in_flight, model=MODEL, handbook=HANDBOOK))
        target = f"unix:{folder}/bench.sock"
        command = [str(Path(sys.executable).with_name("batch-llm-sidecar")), "serve", "--config", str(config)]
        command += ["--listen", target, "--state-dir", f"{folder}/state"]
        environment = {**os.environ, "GEMINI_API_KEY": KEY}
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stderr is not None
            while b"serving on" not in (line := process.stderr.readline()):
                assert line, f"the sidecar ended with {process.wait()}"
            try:
                yield target, process.pid
            finally:
                process.terminate()
                process.communicate(timeout=60)


def through_sidecar(url: str, items: int, in_flight: int) -> dict[str, Receipt]:
    receipts = {}
    work = [WorkItem(str(number), f"item {number}") for number in range(items)]
    with sidecar(url, in_flight) as (target, pid), BatchClient(target, timeout=600) as client:
        with client.process_batch(work[:in_flight], strategy="uncached") as batch:
            assert all(result.ok for result in batch)  # the package is imported, connections are open
        for strategy in ("uncached", "cached"):
            before, ours, started = cpu_of(pid), own_cpu(), time.perf_counter()
            with client.process_batch(work, strategy=strategy) as batch:
                assert sum(result.ok for result in batch) == items
            used, client_used = cpu_of(pid) - before, own_cpu() - ours
            rate = items / (time.perf_counter() - started)
            each, client_each = used / items * 1000, client_used / items * 1000
            print(
                f"  sidecar, {strategy}: {each:.3f} ms of CPU a call, {rate:.0f} calls/s; client {client_each:.3f} ms"
            )
            receipts[strategy] = batch.totals.receipt
    return receipts


def show(receipts: dict[str, Receipt]) -> None:
    """Receipts side by side."""
    print(f"  {'receipt':<30}" + "".join(f"{name:>16}" for name in receipts))
    for name in [
        "fresh_input_tokens",
        "cached_input_tokens",
        "output_tokens",
        "thinking_tokens",
        "failed_attempt_tokens",
        "fresh_input_nano_usd",
        "cached_input_nano_usd",
        "output_nano_usd",
        "cache_creation_nano_usd",
        "cache_storage_nano_usd",
        "total_nano_usd",
        "uncached_nano_usd",
        "storage_until_expiry_nano_usd",
    ]:
        print(f"  {name:<30}" + "".join(f"{getattr(receipt, name):>16,}" for receipt in receipts.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--bare", metavar="URL", help="used by the bench itself")
    options = parser.parse_args()
    if options.bare:
        asyncio.run(bare(options.bare, options.items, options.in_flight))
        return
    with running_emulator() as emulator:
        print(f"Gemini emulator, {options.items} items, {options.in_flight} in flight")
        command = [sys.executable, "-m", "tests.bench.gemini", "--bare", emulator.url]
        command += ["--items", str(options.items), "--in-flight", str(options.in_flight)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"  bare google-genai: {said[0]} ms of CPU a call, {said[1]} calls/s")
        show(through_sidecar(emulator.url, options.items, options.in_flight))


if __name__ == "__main__":
    main()
