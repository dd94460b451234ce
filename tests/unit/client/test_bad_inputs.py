"""What can be no target, timeout or text is refused by name, before anything is sent."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from batch_llm_client import AsyncBatchClient, BatchClient, WorkItem
from batch_llm_client.cli import main

NOBODY = "127.0.0.1:1"
NO_TARGETS = [
    ("", "the target must not be empty: give host:port or unix:PATH, e.g. 127.0.0.1:50051"),
    ("unix:", "the target must have a path after 'unix:'"),
    ("unix://", "the target must have a path after 'unix://'"),
    ("127.0.0.1:65536", r"the target's port must be at most 65535, not 65536 \(127.0.0.1:65536\)"),
    ("dns:///[::1]:99999", "the target's port must be at most 65535, not 99999"),
]
TARGETS = ["127.0.0.1:65535", "localhost", "[::1]:1", "unix:/tmp/a:99999", "unix-abstract:a:99999", "vsock:2:99999"]
NO_TIMEOUTS = [-1.5, math.inf, math.nan]
TIMED: list[Callable[[Any, float], Any]] = [
    lambda client, timeout: client.process_batch([], timeout=timeout),
    lambda client, timeout: client.process_item(WorkItem("a", "b"), timeout=timeout),
    lambda client, timeout: client.wait_until_ready(timeout),
]


@pytest.mark.parametrize(("target", "message"), NO_TARGETS)
async def test_what_can_be_no_target(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        BatchClient(target)
    with pytest.raises(ValueError, match=f"^{message}"):
        AsyncBatchClient(target)


async def test_a_target_must_be_text() -> None:
    with pytest.raises(TypeError, match=r"the target must be a str, .*, not NoneType"):
        BatchClient(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the target must be a str, .*, not NoneType"):
        AsyncBatchClient(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
def test_what_may_be_a_target(target: str) -> None:
    BatchClient(target).close()


def test_the_command_says_it_in_a_line(capsys) -> None:
    assert main(["--target", "unix:", "strategies"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("batch-llm: the target must have a path after 'unix:'")
    assert error.count("\n") == 1


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
async def test_a_clients_timeout(timeout: float) -> None:
    for make in (BatchClient, AsyncBatchClient):
        with pytest.raises(ValueError, match=f"^timeout must be .* at least 0, not {timeout}$"):
            make(NOBODY, timeout=timeout)


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
@pytest.mark.parametrize("call", TIMED)
async def test_a_calls_timeout(call: Callable[[Any, float], Any], timeout: float) -> None:
    message = f"^timeout must be .* at least 0, not {timeout}$"
    with BatchClient(NOBODY) as client, pytest.raises(ValueError, match=message):
        call(client, timeout)
    async with AsyncBatchClient(NOBODY) as client:
        with pytest.raises(ValueError, match=message):
            await call(client, timeout)


@pytest.mark.parametrize("field", ["item_id", "prompt", "strategy"])
def test_a_lone_surrogate(sidecar, field: str) -> None:
    item = WorkItem(**{"item_id": "a", "prompt": "b", field: "ab\ud83d"})
    message = f"^an item's {field} must be valid Unicode: it has a lone surrogate at 2 \\(item 'a"
    with BatchClient(sidecar.target) as client:
        with pytest.raises(ValueError, match=message):
            list(client.process_batch([item]))
        with pytest.raises(ValueError, match=message):
            client.process_item(item)
    assert all(request.WhichOneof("frame") == "open" for request in sidecar.requests)
