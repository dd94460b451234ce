"""The Gemini emulator as its command, spoken to by the real SDK."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.util import find_spec
from urllib.request import urlopen

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from batch_llm.emulator import EmulatorError, GeminiEmulator, running_emulator
from batch_llm.emulator.effects import Rule, Script

from .conftest import BIN, REPO, script
from .gemini import arrived

MODEL = "gemini-2.5-flash"
HANDBOOK = "x" * 80_000  # 20,000 tokens


def user(text: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])


@pytest.fixture(params=["developer", "vertex"])
async def client(request: pytest.FixtureRequest, gemini_emulator: GeminiEmulator) -> AsyncIterator[genai.Client]:
    if request.param == "vertex":
        client = genai.Client(
            vertexai=True,
            project="shop",
            location="europe-west4",
            credentials=Credentials("test-token"),
            http_options=types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta1"),
        )
    else:
        client = genai.Client(
            api_key="test-key", http_options=types.HttpOptions(base_url=gemini_emulator.url, api_version="v1beta")
        )
    yield client
    await client.aio.aclose()
    client.close()


async def cached(client: genai.Client, text: str = HANDBOOK, **config: object) -> types.CachedContent:
    made = types.CreateCachedContentConfig.model_validate({"contents": [user(text)], "ttl": "600s", **config})
    return await client.aio.caches.create(model=MODEL, config=made)


async def generate(client: genai.Client, prompt: str, **config: object) -> types.GenerateContentResponse:
    made = types.GenerateContentConfig.model_validate(config)
    return await client.aio.models.generate_content(model=MODEL, contents=[user(prompt)], config=made)


async def test_a_cache_from_its_creation_to_its_deletion(client: genai.Client, gemini_emulator: GeminiEmulator) -> None:
    cache = await cached(client, display_name="fingerprint", system_instruction="Label the ticket.")
    assert cache.name
    assert cache.expire_time
    assert cache.create_time
    assert cache.expire_time - cache.create_time == timedelta(seconds=600)
    assert cache.usage_metadata
    assert cache.usage_metadata.total_token_count == 20_005
    renewed = await client.aio.caches.update(name=cache.name, config=types.UpdateCachedContentConfig(ttl="7200s"))
    assert renewed.expire_time
    assert renewed.expire_time > cache.expire_time
    assert (await client.aio.caches.get(name=cache.name)).display_name == "fingerprint"
    answer = await generate(client, "1234", cached_content=cache.name)
    assert answer.text == "emulated: 1234"
    assert answer.usage_metadata
    assert answer.usage_metadata.prompt_token_count == 20_006
    assert answer.usage_metadata.cached_content_token_count == 20_005
    await client.aio.caches.delete(name=cache.name)
    with pytest.raises(errors.ClientError) as caught:
        await generate(client, "1234", cached_content=cache.name)
    assert caught.value.code in (403, 404)
    kinds = [record["kind"] for record in gemini_emulator.requests()]
    assert kinds == ["create", "update", "get", "generate", "delete", "generate"]


async def test_all_pages_of_a_list_are_read(client: genai.Client, gemini_emulator: GeminiEmulator) -> None:
    gemini_emulator.configure(max_page_size=2)
    for number in range(5):
        await cached(client, display_name=str(number))
    pager = await client.aio.caches.list(config={"page_size": 1000})
    assert [cache.display_name async for cache in pager] == ["4", "3", "2", "1", "0"]
    assert gemini_emulator.count("list") == 3


async def test_the_sdk_understands_every_kind_of_answer(client: genai.Client) -> None:
    ratings = {"HARM_CATEGORY_HARASSMENT": "HIGH"}
    answer = await generate(client, script(finish_reason="SAFETY", safety_ratings=ratings, thinking_tokens=9))
    assert answer.candidates
    assert answer.candidates[0].finish_reason == types.FinishReason.SAFETY
    assert answer.candidates[0].safety_ratings
    assert answer.candidates[0].safety_ratings[0].blocked
    assert answer.usage_metadata
    assert answer.usage_metadata.thoughts_token_count == 9
    answer = await generate(client, script(block_reason="PROHIBITED_CONTENT"))
    assert answer.prompt_feedback
    assert answer.prompt_feedback.block_reason == types.BlockedReason.PROHIBITED_CONTENT
    answer = await generate(client, script(function_calls=[{"name": "look_up", "args": {"id": 7}}]))
    assert answer.function_calls
    assert (answer.function_calls[0].name, answer.function_calls[0].args) == ("look_up", {"id": 7})
    answer = await generate(client, script(reply="x" * 100), max_output_tokens=10)
    assert answer.candidates
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert (await generate(client, script(empty=True))).text is None
    assert (await generate(client, script(reply='{"a": 1}'), response_mime_type="application/json")).text == '{"a": 1}'
    counted = await client.aio.models.count_tokens(model=MODEL, contents="x" * 40)
    assert counted.total_tokens == 10
    assert (await client.aio.models.get(model=MODEL)).name
    stream = await client.aio.models.generate_content_stream(model=MODEL, contents="hello")
    assert "".join([piece.text or "" async for piece in stream]) == "emulated: hello"


async def test_the_sdk_raises_what_the_emulator_says(client: genai.Client, gemini_emulator: GeminiEmulator) -> None:
    with pytest.raises(errors.ClientError, match="1024") as small:
        await cached(client, "x" * 388)
    assert (small.value.code, small.value.status) == (400, "INVALID_ARGUMENT")
    gemini_emulator.fail(quota="requests_per_day")
    with pytest.raises(errors.ClientError, match="RESOURCE_EXHAUSTED") as daily:
        await generate(client, "hello")
    (failure,) = [
        detail for detail in daily.value.details["error"]["details"] if detail["@type"].endswith("QuotaFailure")
    ]
    assert "PerDay" in failure["violations"][0]["quotaId"]
    gemini_emulator.fail(503)
    with pytest.raises(errors.ServerError, match="UNAVAILABLE"):
        await generate(client, "hello")
    for drop in ("before", "after", "middle"):
        rule = gemini_emulator.fail(drop=drop, times=None)
        with pytest.raises(Exception, match=r"[Dd]isconnect|[Cc]losed|complete"):
            await generate(client, "hello")
        gemini_emulator.remove(rule)
    repeated = 2 if find_spec("aiohttp") else 0  # its transport in the SDK repeats what got no answer at all
    assert gemini_emulator.count("generate") == 5 + repeated


async def test_a_cache_that_expires_while_many_call_fails_all_of_them(
    client: genai.Client, gemini_emulator: GeminiEmulator
) -> None:
    cache = await cached(client)
    gemini_emulator.hold(kind="generate")
    calls = [asyncio.create_task(generate(client, str(number), cached_content=cache.name)) for number in range(10)]
    await arrived(gemini_emulator, "generate", 10)
    gemini_emulator.advance(600)
    gemini_emulator.remove()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(failure, errors.ClientError) for failure in failures] == [True] * 10


# The command.


def test_the_command_says_where_it_is_and_ends_when_told() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [BIN / "batch-llm-sidecar", "emulate-gemini", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first, advice, _ = (process.stdout.readline() for _ in range(3))
            assert first.startswith("emulating Gemini on http://127.0.0.1:")
            emulator = GeminiEmulator(first.split()[-1])
            assert f'base_url="{emulator.url}"' in advice
            assert emulator.count() == 0
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=30)
            assert (process.returncode, rest, complaints) == (0, "", "")


def test_every_setting_is_a_flag() -> None:
    flags = ["--latency-ms", "5", "--keys", '{"a": "shop"}', "--models", '["gemini-9"]', "--free-tier"]
    flags += ["--missing-cache", "expired", "--requests-per-minute", "60"]
    with running_emulator(*flags) as emulator:
        settings = emulator.configure()
        assert settings["keys"] == {"a": "shop"}
        assert (settings["latency_ms"], settings["models"], settings["free_tier"]) == (5, ["gemini-9"], True)
        assert (settings["missing_cache"], settings["requests_per_minute"]) == ("expired", 60)
        emulator.configure(latency_ms=0)
        emulator.reset()
        assert emulator.configure() == settings


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--latency-ms", "-1"], "--latency-ms: "),
        (["--requests-per-minute", "many"], "--requests-per-minute: "),
        (["--missing-cache", "sometimes"], "--missing-cache: "),
        (["--keys", "a"], "--keys: "),
    ],
)
def test_a_bad_flag_is_refused_by_name(flags: list[str], says: str) -> None:
    command = [BIN / "batch-llm-sidecar", "emulate-gemini", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [BIN / "batch-llm-sidecar", "emulate-gemini", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"cannot listen on 127.0.0.1 port {port}: ")
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr
        with pytest.raises(EmulatorError, match="did not start"), running_emulator("--port", port):
            pass
    command = [BIN / "batch-llm-sidecar", "emulate-gemini", "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_without_the_extra_the_command_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['httptools'] = None; from batch_llm.sidecar.cli import main; "
        "sys.exit(main(['emulate-gemini', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "the emulator needs httptools: pip install 'batch-llm[emulator]'\n"


def test_the_document_names_everything_there_is(gemini_emulator: GeminiEmulator) -> None:
    document = (REPO / "docs" / "emulator.md").read_text()
    named = {name for quoted in re.findall(r"`([^`\n]+)`", document) for name in re.findall(r"\w+", quoted)}
    fields = {name for model in (Script, Rule) for name in model.model_fields}
    assert fields - named == set()
    assert {name for name in vars(GeminiEmulator) if not name.startswith("_")} - named <= {"rules"}
    with urlopen(f"{gemini_emulator.url}/emulator") as answer:  # noqa: S310 -- an address of our own
        routes = json.load(answer)["routes"]
    assert [route for route in routes if f"`{route}`" not in document] == []


def test_the_program_in_the_document_runs(gemini_emulator: GeminiEmulator) -> None:
    document = (REPO / "docs" / "emulator.md").read_text()
    (program,) = re.findall(r"```python\n(from google.*?)```", document, re.DOTALL)
    program = program.replace("http://127.0.0.1:8080", gemini_emulator.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "emulated: hello\n"
