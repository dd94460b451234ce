"""What a case runs in: a sidecar, shared or its own, and the network before it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.faults.processes import Process
from tests.faults.proxy import Proxy

_CONFIG = Path(__file__).with_name("sidecar.toml")


class Sidecar:
    """A sidecar that can be ended and started again.

    Args:
        folder: for its state and what it says.
        settings: on top of `sidecar.toml`, by their keys.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._lives = 0
        self._process: Process | None = None
        self.target = ""
        self._environment = {
            "BATCH_LLM_" + key.upper().replace(".", "__"): value if isinstance(value, str) else json.dumps(value)
            for key, value in (settings or {}).items()
        }

    def start(self) -> None:
        arguments = ("-m", "batch_llm.sidecar.cli", "serve", "--config", _CONFIG, "--listen", "127.0.0.1:0")
        self._lives += 1
        log = self._folder / f"sidecar-{self._lives}.log"
        self._process = Process([*arguments, "--state-dir", self._folder / "state"], log, self._environment)
        self.target = self._process.until_said(r"serving on (\S+)")[1]

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()

    def terminate(self) -> None:
        """SIGTERM: it drains."""
        assert self._process is not None
        self._process.signal(signal.SIGTERM)
        self._process.until_said("draining")

    def ended(self) -> None:
        """Wait until it has ended, which must be well."""
        assert self._process is not None
        assert self._process.wait() == 0, self._process.said

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.code is None

    @property
    def said(self) -> str:
        return "" if self._process is None else self._process.said

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()


class World:
    """The surroundings of one case.

    Args:
        sidecar: running, or to be started by `start`.
        has_network: whether clients go through what can be broken.
    """

    def __init__(self, sidecar: Sidecar, *, has_network: bool) -> None:
        self.sidecar = sidecar
        self._stack = ExitStack()
        self._nobody = ""
        self._proxy = self._stack.enter_context(Proxy(lambda: sidecar.target)) if has_network else None

    @property
    def target(self) -> str:
        """Where clients find the sidecar."""
        return self._proxy.address if self._proxy is not None else self.sidecar.target

    def find(self, whom: str) -> str:
        """The address of what a case names: "sidecar" past the network, "nobody", or else where clients find it."""
        match whom:
            case "sidecar":
                return self.sidecar.target
            case "nobody":
                return self._nowhere
        return self.target

    def check(self) -> None:
        """See that the faults that were asked for have come. AssertionError: one has not."""
        assert self._proxy is None or self._proxy.is_cut, "the connection was not cut: too little came through"

    @property
    def _nowhere(self) -> str:
        """An address where nobody answers: bound, so that nobody else gets it, and not listened on."""
        if not self._nobody:
            bound = self._stack.enter_context(closing(socket.socket()))
            bound.bind(("127.0.0.1", 0))
            self._nobody = f"127.0.0.1:{bound.getsockname()[1]}"
        return self._nobody

    def do(self, what: str, step: Mapping[str, Any]) -> None:
        """Do what a step says."""
        proxy = self._proxy
        assert proxy is not None
        match what:
            case "sidecar.kill":
                self.sidecar.kill()
            case "sidecar.terminate":
                self.sidecar.terminate()
            case "sidecar.ended":
                self.sidecar.ended()
            case "sidecar.start":
                self.sidecar.start()
            case "network.reset":
                proxy.reset()
            case "network.stall":
                proxy.stall(*step.get("ways", ()))
            case "network.flow":
                proxy.flow()
            case "network.cut":
                proxy.cut_after(step["after"])

    def close(self) -> None:
        self._stack.close()
