"""A local model that several strategies share: its process, its slots, calls to it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from batch_llm.model import ErrorReason, ProviderError
from batch_llm.sync import Limiter

from .files import BUNDLED_MODEL, clear_partial_files, has_chat_template, model_file

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("batch_llm")

PromptFormat = Literal["auto", "plain", "chat"]

_WORKER = Path(__file__).with_name("worker.py")
_USER_MARK = "\x1fprompt\x1f"
_STOP_SECONDS = 5.0


@dataclass(slots=True)
class _Slot:
    """One of llama.cpp's slots: a context of its own.

    Args:
        number: its number there.
        holds: fingerprint of the cache whose prefix it was last given; None for none.
        busy: a call is using it.
    """

    number: int
    holds: str | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands before and after an item's prompt."""

    before: str
    after: str


class LocalModel:
    """A GGUF model run by llama.cpp in a process of its own, which starts with its first user and ends with its last.

    Args:
        state_dir: where the bundled model and saved prefixes are kept.
        model_path: a GGUF file; None for the small model that the extra brings.
        model_sha256: checksum that `model_path` must have, in hex; None to skip that.
        context_tokens: prompt and output of one item together.
        slots: items that are worked on at a time.
        threads: threads of the model; None for one for each usable core.
        prompt_format: plain: text follows text; chat: the model's template; auto: chat if the model has a template.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        model_path: Path | None = None,
        model_sha256: str | None = None,
        context_tokens: int = 4096,
        slots: int = 2,
        threads: int | None = None,
        prompt_format: PromptFormat = "auto",
    ) -> None:
        self.name = model_path.stem if model_path is not None else BUNDLED_MODEL
        self.limiter = Limiter(slots)
        self.prefix_dir = state_dir / "prefixes"
        self._state_dir = state_dir
        self._model_path = model_path
        self._model_sha256 = model_sha256
        self._context_tokens = context_tokens
        self._threads = threads or len(os.sched_getaffinity(0))
        self._prompt_format = prompt_format
        self._slots = [_Slot(number) for number in range(slots)]
        self._users = 0
        self._lock = asyncio.Lock()
        self._chat = False
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None
        self._socket_dir: Path | None = None
        self._client: httpx2.AsyncClient | None = None

    @property
    def identity(self) -> str:
        """What a saved prefix depends on, as far as it is known without reading the model."""
        path = self._model_path
        facts = path.stat() if path is not None and path.exists() else None
        file = f"{facts.st_size}-{facts.st_mtime_ns}" if facts else "bundled"
        try:
            engine = version("xllamacpp")
        except PackageNotFoundError:
            engine = "none"
        return f"{self.name} file={file} context={self._context_tokens} format={self._prompt_format} xllamacpp={engine}"

    async def acquire(self) -> None:
        """Count a user in; the first one starts the model."""
        async with self._lock:
            if self._users == 0:
                await self._start()
            self._users += 1

    async def release(self) -> None:
        """Count a user out; the last one stops the model."""
        async with self._lock:
            self._users -= 1
            if self._users == 0:
                await self._stop()

    # -- calls -------------------------------------------------------------------------------------------------------

    async def frame(self, parts: list[str]) -> Framing:
        """What stands around a prompt, given what all items of a strategy start with."""
        shared = "\n\n".join(parts)
        if not self._chat:
            return Framing(f"{shared}\n\n" if shared else "", "")
        messages = [{"role": "system", "content": shared}] if shared else []
        messages.append({"role": "user", "content": _USER_MARK})
        answer = await self._post("/apply-template", {"messages": messages})
        before, mark, after = str(answer["prompt"]).partition(_USER_MARK)
        if not mark:
            raise ProviderError(
                "the model's chat template does not show the user's message; set prompt_format = \"plain\"",
                reason=ErrorReason.PREPARE_FAILED,
            )
        return Framing(before, after)

    async def complete(self, request: Mapping[str, Any], prefix: str | None = None) -> dict[str, Any]:
        """One completion, by llama.cpp's own request and answer.

        Args:
            request: fields of `POST /completion`.
            prefix: fingerprint of the saved prefix that the prompt starts with; None for none.
        """
        await self._ensure_running()
        slot = self._take_slot(prefix)
        try:
            if prefix is not None and slot.holds != prefix:
                await self._restore(slot, prefix)
            slot.holds = prefix
            return await self._post("/completion", {**request, "id_slot": slot.number, "cache_prompt": True})
        finally:
            slot.busy = False

    async def save_prefix(self, fingerprint: str, text: str) -> int:
        """Have the model read a prefix and save its state; the number of tokens."""
        await self._ensure_running()
        await self.limiter.acquire()
        slot = self._take_slot(fingerprint)
        try:
            slot.holds = None
            await self._post(
                "/completion", {"prompt": text, "n_predict": 0, "id_slot": slot.number, "cache_prompt": True}
            )
            partial = f"{fingerprint}.{os.getpid()}.partial"
            saved = await self._post(f"/slots/{slot.number}?action=save", {"filename": partial})
            (self.prefix_dir / partial).replace(self.prefix_file(fingerprint))
            slot.holds = fingerprint
        finally:
            slot.busy = False
            self.limiter.release()
        return int(saved["n_saved"])

    def prefix_file(self, fingerprint: str) -> Path:
        """Where a prefix's state is saved."""
        return self.prefix_dir / f"{fingerprint}.state"

    def forget_prefix(self, fingerprint: str) -> None:
        """Delete a saved prefix; none is no error."""
        self.prefix_file(fingerprint).unlink(missing_ok=True)
        for slot in self._slots:
            if slot.holds == fingerprint:
                slot.holds = None

    async def _restore(self, slot: _Slot, fingerprint: str) -> None:
        file = self.prefix_file(fingerprint)
        try:
            restored = await self._post(f"/slots/{slot.number}?action=restore", {"filename": file.name})
        except ProviderError as error:
            # Correct all the same: llama.cpp compares tokens and reads what it does not hold. Then it is saved anew.
            logger.warning("the saved prefix %s cannot be restored, so it is read again: %s", file.name, error)
            file.unlink(missing_ok=True)
        else:
            logger.info("slot %d: restored %s tokens from %s", slot.number, restored.get("n_restored"), file.name)

    def _take_slot(self, prefix: str | None) -> _Slot:
        """A free slot, best one that holds the prefix, else one that holds nothing. The limiter says there is one."""
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            raise ProviderError("all slots of the local model are busy", reason=ErrorReason.PROVIDER_UNAVAILABLE)
        slot = min(free, key=lambda slot: (slot.holds != prefix, slot.holds is not None))
        slot.busy = True
        return slot

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx2

        if self._client is None:
            raise ProviderError("the local model is not running", reason=ErrorReason.PROVIDER_UNAVAILABLE)
        try:
            response = await self._client.post(path, json=body)
        except httpx2.HTTPError as error:
            process = self._process
            ended = f" (its process ended with code {process.returncode})" if process and process.returncode else ""
            raise ProviderError(
                f"the local model did not answer{ended}: {type(error).__name__}",
                reason=ErrorReason.PROVIDER_UNAVAILABLE,
            ) from error
        answer: dict[str, Any] = response.json()
        if "error" in answer:
            raise _refusal(answer["error"], response.status_code)
        return answer

    # -- the process -------------------------------------------------------------------------------------------------

    async def _ensure_running(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            return
        async with self._lock:
            process = self._process
            if self._users and (process is None or process.returncode is not None):
                logger.warning("the local model's process is gone; starting it again")
                await self._stop()
                await self._start()

    async def _start(self) -> None:
        try:
            import httpx2
        except ImportError:
            raise ProviderError(
                "the local provider is not installed; pip install 'batch-llm[local]'", reason=ErrorReason.PREPARE_FAILED
            ) from None
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it would log every call at INFO
        path = await asyncio.to_thread(model_file, self._model_path, self._model_sha256, self._state_dir)
        self._chat = self._prompt_format == "chat" or (self._prompt_format == "auto" and has_chat_template(path))
        self.prefix_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        clear_partial_files(self.prefix_dir)
        # Not under state_dir: the path of a Unix socket has room for 107 bytes only.
        socket_dir = self._socket_dir = Path(tempfile.mkdtemp(prefix="batch-llm-"))
        wanted = {
            "model_path": str(path),
            "context_tokens": self._context_tokens,
            "slots": len(self._slots),
            "threads": self._threads,
            "socket_dir": str(socket_dir),
            "slot_dir": str(self.prefix_dir),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_WORKER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the sidecar, which drains first
        )
        self._process = process
        try:
            await self._greet(process, wanted)
        except BaseException:
            await self._stop()
            raise
        for slot in self._slots:
            slot.holds = None
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(socket_dir / "llama.sock")),
            base_url="http://llama",
            timeout=None,
        )
        logger.info(
            "local model %s is loaded, prompts are framed as %s", self.name, "chat" if self._chat else "plain text"
        )

    async def _greet(self, process: asyncio.subprocess.Process, wanted: Mapping[str, Any]) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise RuntimeError("the worker was started without pipes")
        process.stdin.write(json.dumps(wanted).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise ProviderError(
                f"llama.cpp cannot load {wanted['model_path']}: {answer['error']} {' | '.join(said[-3:])}".strip(),
                reason=ErrorReason.PREPARE_FAILED,
            )
        # Nobody reads it from here on; unread, it would fill the pipe and stop the worker.
        self._log = asyncio.create_task(_pass_on(process.stderr), name="local-model-log")

    async def _stop(self) -> None:
        client, self._client = self._client, None
        process, self._process = self._process, None
        if client is not None:
            await client.aclose()
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        finally:
            if self._socket_dir is not None:
                shutil.rmtree(self._socket_dir, ignore_errors=True)  # a process that was killed has left it


async def _pass_on(stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        logger.debug("llama.cpp: %s", line.decode(errors="replace").rstrip())


def _refusal(error: Mapping[str, Any], status: int) -> ProviderError:
    """llama.cpp's error as ours."""
    message = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        prompt, context = error.get("n_prompt_tokens"), error.get("n_ctx")
        return ProviderError(
            f"the prompt has {prompt} tokens and the model's context {context}; shorten it or raise context_tokens",
            reason=ErrorReason.CONTEXT_LENGTH_EXCEEDED,
            metadata={"prompt_tokens": str(prompt), "context_tokens": str(context)},
        )
    return ProviderError(message, status=status)
