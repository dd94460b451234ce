"""A real sidecar process for each module that asks for one, and clients to it."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batch_llm_client import BatchClient

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

SIMULATED = """
[providers.simulated]
kind = "simulated"
[providers.simulated.rate_limit]
cooldown_seconds = 0
slow_start_items = 0
[strategies.echo]
provider = "simulated"
[strategies.echo.retry]
initial_wait_seconds = 0
[strategies.cached]
provider = "simulated"
cached_content = ["a handbook that all items share, long enough to count"]
cache_ttl_seconds = 600
[strategies.one]
provider = "simulated"
max_concurrency = 1
"""


def script(**said: object) -> str:
    """A prompt that the simulated provider follows."""
    return json.dumps({"simulate": said})


@dataclass
class SidecarProcess:
    """A running `batch-llm-sidecar serve`."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str]
    log: list[str] = field(default_factory=list)
    target: str = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line of the log that matches; fails when the process ends before."""
        while True:
            line = self.lines.get(timeout=60)
            if not line:
                raise AssertionError(f"ended with {self.process.wait()} before {pattern!r}:\n{''.join(self.log)}")
            self.log.append(line)
            if found := re.search(pattern, line):
                return found

    def whole_log(self) -> str:
        """All it has logged; waits for its end."""
        while line := self.lines.get(timeout=60):
            self.log.append(line)
        return "".join(self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


Start = Callable[..., SidecarProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts sidecars; ends those that a test left."""
    started: list[SidecarProcess] = []

    def run(*arguments: str, config: str | None = None, environment: dict[str, str] | None = None) -> SidecarProcess:
        command = [str(BIN / "batch-llm-sidecar"), "serve", *arguments]
        if config is not None:
            file = tmp_path_factory.mktemp("config") / "sidecar.toml"
            file.write_text(config)
            command += ["--config", str(file)]
        if "--state-dir" not in arguments:
            command += ["--state-dir", str(tmp_path_factory.mktemp("state"))]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
        sidecar = SidecarProcess(process, lines)
        started.append(sidecar)
        return sidecar

    yield run
    for sidecar in started:
        if sidecar.process.poll() is None:
            sidecar.process.kill()
        sidecar.process.wait()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            lines.put(line)
    lines.put("")


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket") / "sidecar.sock"


@pytest.fixture(scope="module")
def simulated(start: Start, socket_path: Path) -> str:
    """The target of a sidecar with simulated strategies."""
    start("--listen", f"unix:{socket_path}", config=SIMULATED).wait_for("serving on")
    return f"unix:{socket_path}"


@pytest.fixture
def client(simulated: str) -> Iterator[BatchClient]:
    with BatchClient(simulated) as client:
        yield client
