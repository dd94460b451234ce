"""Runs a case against an adapter."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.processes import DEADLINE_SECONDS

from .adapter import Adapter, AdapterError, Answer
from .cases import Case
from .ledger import Ledger
from .matching import RESULTS, differences, readable
from .notation import expand
from .world import Sidecar, World

_CLIENT, _BATCH, _STREAM = "c", "b", "s"
_FRAME_ITEMS = 64
_POLL_SECONDS = 0.02
_SETTLED_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
# What a step says to the runner.
_OURS = {"expect", "background", "eventually", "settled"}


class Suite:
    """Sidecars and adapters that cases share.

    Args:
        verbose: print every line to and from the adapters.
        seconds: what does not come within so many fails.
    """

    def __init__(self, *, verbose: bool = False, seconds: float = DEADLINE_SECONDS) -> None:
        self._verbose = verbose
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._shared: Sidecar | None = None
        self._adapters: dict[tuple[str, ...], Adapter] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for adapter in self._adapters.values():
            adapter.kill()
        if self._shared is not None:
            self._shared.close()
        self._folder.cleanup()

    def adapter(self, command: Sequence[str]) -> Adapter:
        """The adapter of a command; it is started if it does not run."""
        key = tuple(command)
        adapter = self._adapters.get(key)
        if adapter is None or not adapter.is_running:
            log = Path(self._folder.name) / f"adapter-{len(self._adapters)}.log"
            adapter = self._adapters[key] = Adapter(command, log, verbose=self._verbose)
        return adapter

    def end(self, command: Sequence[str]) -> None:
        """End an adapter, which must be well. AdapterError: it was not."""
        adapter = self._adapters.pop(tuple(command), None)
        if adapter is not None and adapter.is_running:
            adapter.end()

    def run(self, case: Case, command: Sequence[str]) -> None:
        """Run a case.

        Raises:
            AssertionError: what came is not what is expected; the message says at which step.
        """
        adapter = self.adapter(command)
        number = next(self._numbers)
        with self._sidecar(case, number) as sidecar:
            world = World(sidecar, has_network=case.has_network)
            run = CaseRun(case, adapter, world, f"run-{number}", self._seconds)
            try:
                run.run()
            except BaseException:
                with suppress(AdapterError):
                    run.close()
                adapter.kill()  # who knows what it still waits for
                raise
            else:
                world.check()
                run.close()
            finally:
                world.close()
            if not case.own_sidecar:
                assert sidecar.is_running, f"the sidecar ended:\n{sidecar.said}"

    @contextmanager
    def _sidecar(self, case: Case, number: int) -> Iterator[Sidecar]:
        if not case.own_sidecar:
            if self._shared is None or not self._shared.is_running:
                self._shared = self._new_sidecar(f"shared-{number}", None)
            yield self._shared
            return
        sidecar = self._new_sidecar(f"own-{number}", case)
        try:
            yield sidecar
        finally:
            sidecar.close()

    def _new_sidecar(self, name: str, case: Case | None) -> Sidecar:
        folder = Path(self._folder.name) / name
        folder.mkdir()
        sidecar = Sidecar(folder, None if case is None else case.sidecar)
        sidecar.start()
        return sidecar


class CaseRun:
    """One case on one adapter.

    Args:
        case: the case.
        adapter: the adapter.
        world: the case's surroundings.
        name: no other run has it.
        seconds: what does not come within so many fails.
    """

    def __init__(self, case: Case, adapter: Adapter, world: World, name: str, seconds: float) -> None:
        self._case = case
        self._adapter = adapter
        self._world = world
        self._name = name
        self._seconds = seconds
        self._clients: list[str] = []
        self._ledgers: dict[str, Ledger] = {}
        self._begun: dict[str, tuple[Future[Answer], dict[str, Any]]] = {}
        self._runs = itertools.count(1)
        self._threads = ThreadPoolExecutor(thread_name_prefix=name)

    def run(self) -> None:
        if not any(step["do"] == "connect" and step["client"] == _CLIENT for step in self._case.steps):
            self._do({"do": "connect"})
        for number, raw in enumerate(self._case.steps, 1):
            step = expand(raw, run=self._name)
            try:
                self._step(step)
            except (AssertionError, ValueError) as error:
                raise AssertionError(f"step {number} ({step['do']}): {error}") from error

    def close(self) -> None:
        """Forget the clients. AdapterError: the adapter cannot."""
        self._threads.shutdown(wait=False)
        for client in self._clients:
            self._adapter.ask({"do": "close", "client": client}, _CLOSE_SECONDS)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: dict[str, Any]) -> None:
        do = step["do"]
        if do.startswith(("sidecar.", "network.")):
            self._world.do(do, step)
            return
        if do == "await":
            future, begun = self._begun.pop(step["of"])
            try:
                answer = future.result(2 * self._seconds)
            except TimeoutError:
                raise AssertionError(f"{step['of']!r} goes on after {2 * self._seconds:g} s") from None
            self._check(step, readable(answer, begun.get("method")))
        elif "background" in step:
            self._begun[step["background"]] = (self._threads.submit(self._do, step), step)
        elif step.get("eventually"):
            self._poll(step, until=lambda answers: not list(differences(step["expect"], answers[-1])))
        elif "settled" in step:
            self._poll(step, until=lambda answers: _is_settled(answers, step["settled"]))
        else:
            self._check(step, self._answer(step))

    def _answer(self, step: dict[str, Any]) -> Answer:
        return readable(self._do(step), step.get("method"))

    def _check(self, step: dict[str, Any], answer: Answer) -> None:
        found = list(differences(step.get("expect", {}), answer))
        assert not found, "\n  ".join(found)

    def _poll(self, step: dict[str, Any], until: Callable[[list[Answer]], bool]) -> None:
        """Ask again and again; what is there at last must be what is expected."""
        end = time.monotonic() + self._seconds
        answers = [self._answer(step)]
        while not until(answers) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            answers.append(self._answer(step))
        self._check(step, answers[-1])

    def _ask(self, command: dict[str, Any]) -> Answer:
        return self._adapter.ask(command, self._seconds)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _do(self, step: dict[str, Any]) -> Answer:
        """Do what the adapter is to do, or what is put together from that."""
        do = step["do"]
        command = {key: value for key, value in step.items() if key not in _OURS}
        match do:
            case "connect":
                return self._connect(command)
            case "run":
                return self._run_batch(command)
            case "stream.read":
                return self._read(command)
            case "stream.open":
                return self._open_stream(command)
        if do == "call":
            command = {"request": {}, **self._named(command, client=_CLIENT)}
        elif do.startswith("stream."):
            command = self._named(command, stream=_STREAM)
        elif do in ("batch.start", "batch.resume"):
            command = self._named(command, client=_CLIENT, batch=_BATCH)
            after = step["open"].get("resume_after_sequence", 0) if do == "batch.start" else step.get("after", 0)
            self._ledgers[command["batch"]] = Ledger(after)
        elif do.startswith("batch."):
            command = self._named(command, batch=_BATCH)
        else:
            command = self._named(command, client=_CLIENT)
            self._clients.remove(command["client"])
        answer = self._ask(command)
        if do == "batch.next":
            self._ledgers[command["batch"]].add(readable(answer))
        return answer

    def _named(self, command: dict[str, Any], **defaults: str) -> dict[str, Any]:
        """A command with the names that it gives in this run."""
        return command | {key: f"{self._name}.{command.get(key, name)}" for key, name in defaults.items()}

    def _connect(self, command: dict[str, Any]) -> Answer:
        command = self._named(command, client=_CLIENT)
        self._clients.append(command["client"])
        return self._ask({**command, "target": self._world.find(command.get("target", ""))})

    def _run_batch(self, command: dict[str, Any]) -> Answer:
        """A whole batch: sent, and read to its end."""
        command = self._named(command, client=_CLIENT)
        name = f"{self._name}.run-{next(self._runs)}"
        if "client" in self._adapter.sets:
            ledger = Ledger(command["open"].get("resume_after_sequence", 0))
            started = self._ask({**command, "do": "batch.start", "batch": name})
            if "error" in started:
                return {RESULTS: [], **started}
            answer = self._ask({"do": "batch.next", "batch": name})
            ledger.add(readable(answer))
            return answer
        items = command.pop("items")
        self._open_stream({**command, "stream": name}, given=True)
        for first in range(0, len(items), _FRAME_ITEMS):
            frame = {"items": {"items": items[first : first + _FRAME_ITEMS]}}
            self._ask({"do": "stream.send", "stream": name, "frame": frame})
        self._ask({"do": "stream.half_close", "stream": name})
        answer = self._read({"stream": name, "to": "end"}, given=True)
        return {key: value for key, value in answer.items() if key not in ("accepted", "progress", "frames")}

    # -- raw streams -------------------------------------------------------------------------------------------------

    def _open_stream(self, command: dict[str, Any], *, given: bool = False) -> Answer:
        """Open a stream and, where `open` is there, send it."""
        opening = command.pop("open", None)
        if not given:
            command = self._named(command, client=_CLIENT, stream=_STREAM)
        self._ledgers[command["stream"]] = Ledger((opening or {}).get("resume_after_sequence", 0))
        allowed = {key: command[key] for key in ("client", "stream", "timeout") if key in command}
        answer = self._ask({"do": "stream.open", **allowed})
        if opening is not None:
            self._ask({"do": "stream.send", "stream": command["stream"], "frame": {"open": opening}})
        return answer

    def _read(self, command: dict[str, Any], *, given: bool = False) -> Answer:
        """Frames up to where `to` says, put together; `opened` must come first and once, the totals last."""
        stream = command["stream"] if given else self._named(command, stream=_STREAM)["stream"]
        ledger = self._ledgers[stream]
        together: Answer = {RESULTS: [], "frames": []}
        while not _has_come(command["to"], together):
            answer = self._ask({"do": "stream.next", "stream": stream})
            if "error" in answer:
                together["error"] = answer["error"]
                break
            if answer.get("end"):
                assert "totals" in together, "the stream ended with OK and without its totals"
                break
            assert len(answer.get("frame", {})) == 1, f"neither a frame, `end` nor `error`: {answer}"
            ((kind, body),) = answer["frame"].items()
            _add_frame(together, {"batchResult": "totals", "batch_result": "totals"}.get(kind, kind), body, ledger)
        return together


def _add_frame(together: Answer, kind: str, body: dict[str, Any], ledger: Ledger) -> None:
    assert "totals" not in together, f"a frame after the totals: {kind}"
    assert ledger.opened != (kind == "opened"), f"{kind}: `opened` comes first, and once"
    ledger.opened = True
    together["frames"].append(kind)
    if kind == RESULTS:
        added = {RESULTS: body.get("results", [])}
        assert added[RESULTS], "a frame without results"
        together[RESULTS] += added[RESULTS]
    else:
        added = {kind: body}
        together[kind] = body
    ledger.add(readable(added))


def _has_come(to: object, together: Answer) -> bool:
    if not isinstance(to, dict):
        return to in together
    said = readable({key: together[key] for key in ("accepted", "progress") if key in together})
    there = {RESULTS: len(together[RESULTS]), **said.get("accepted", {}), **said.get("progress", {})}
    return all(there.get(what, 0) >= number for what, number in to.items())


def _is_settled(answers: list[Answer], path: str) -> bool:
    """Whether a value has not moved for a while."""
    values = [_at(answer, path) for answer in answers[-round(_SETTLED_SECONDS / _POLL_SECONDS) :]]
    return len(values) == round(_SETTLED_SECONDS / _POLL_SECONDS) and len(set(values)) == 1


def _at(answer: Any, path: str) -> Any:
    for key in path.split("."):
        answer = answer[key]
    return answer
