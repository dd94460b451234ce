"""The examples for Gemini, run as their README says, and what they ask of the emulator."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from batch_llm.emulator import GeminiEmulator

from .conftest import BIN, REPO, Start

EXAMPLES = REPO / "examples" / "gemini"
CONTENT_TOKENS = 4571  # handbook, catalogue and system instruction
LEAST_TOKENS = 4096  # that Google caches for the examples' model

# The requests that each example makes.
REQUESTS = {
    "direct.py": {"generate": 5},
    "cached.py": {"list": 1, "create": 1, "generate": 20},
    "smart_retry.py": {"generate": 5},
    "escalation.py": {"generate": 4},
    "one_off.py": {"list": 1, "create": 1, "generate": 10, "delete": 1},
}


def session(containing: str) -> list[tuple[str, str]]:
    """The commands, each with what it prints, of the README's session that has this text in it."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"```console\n(.*?)```", readme, re.DOTALL) if containing in block]
    parts = re.split(r"^\$ ", found, flags=re.MULTILINE)[1:]
    return [(command, expected) for command, _, expected in (part.partition("\n") for part in parts)]


def run(command: str, tmp_path: Path, **environment: str) -> str:
    """Run a command in the examples' folder; what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEMINI_", "GOOGLE_"))}
    kept |= {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        ["bash", "-c", command.replace("results.jsonl", str(tmp_path / "results.jsonl"))],
        cwd=EXAMPLES,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def compare(printed: str, expected: str) -> None:
    """In `expected`, … stands for anything; amounts may differ in the last digit, since storage costs by the second."""
    amounts = r"\\\$(\d+\\\.\d+)"
    pattern = re.sub(amounts, r"\\$(\\d+\\.\\d+)", re.escape(expected).replace("…", ".*"))
    found = re.fullmatch(pattern, printed, re.DOTALL)
    assert found, printed
    wanted = [float(amount) for amount in re.findall(r"\$(\d+\.\d+)", expected)]
    assert [float(amount) for amount in found.groups()] == pytest.approx(wanted, abs=0.00011)


def requests(emulator: GeminiEmulator) -> dict[str, int]:
    kinds = [record["kind"] for record in emulator.requests()]
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize("example", REQUESTS)
def test_an_example_does_what_the_readme_says(example: str, gemini_emulator: GeminiEmulator, tmp_path: Path) -> None:
    ((command, expected),) = session(f"python {example}")
    compare(run(command, tmp_path, GEMINI_EMULATOR=gemini_emulator.url), expected)
    assert requests(gemini_emulator) == REQUESTS[example]


def test_feedback_reaches_the_item_that_failed_alone(gemini_emulator: GeminiEmulator, tmp_path: Path) -> None:
    run("python smart_retry.py", tmp_path, GEMINI_EMULATOR=gemini_emulator.url)
    bodies = [json.loads(record["body"]) for record in gemini_emulator.requests("generate")]
    prompts = [body["contents"][-1]["parts"][0]["text"] for body in bodies]
    told = [prompt for prompt in prompts if "It was not accepted" in prompt]
    assert len(told) == 2
    assert all(prompt.startswith("I can't log in.") for prompt in told)
    assert "Input should be 'billing', 'shipping', 'return' or 'account'" in told[1]


def test_only_the_item_that_failed_moves_up(gemini_emulator: GeminiEmulator, tmp_path: Path) -> None:
    run("python escalation.py", tmp_path, GEMINI_EMULATOR=gemini_emulator.url)
    assert gemini_emulator.count("generate", model="gemini-3.5-flash-lite") == 3
    assert gemini_emulator.count("generate", model="gemini-3.5-flash") == 1


def test_a_recurring_job_and_a_sidecar_share_one_cache(
    gemini_emulator: GeminiEmulator, start: Start, tmp_path: Path
) -> None:
    # So large a content as Google wants, or the examples would run uncached there.
    gemini_emulator.configure(min_cached_tokens=LEAST_TOKENS)
    for command, expected in session("python recurring.py"):
        compare(run(command, tmp_path, GEMINI_EMULATOR=gemini_emulator.url), expected)
    assert requests(gemini_emulator) == {"list": 3, "create": 2, "generate": 30}
    sidecar = start(
        *("--listen", "127.0.0.1:0", "--config", str(EXAMPLES / "sidecar.toml")),
        environment={"GEMINI_API_KEY": "any", "BATCH_LLM_PROVIDERS__GEMINI__BASE_URL": gemini_emulator.url},
    )
    target = sidecar.wait_for(r"serving on (\S+)")[1]
    for command, expected in session("batch-llm run"):
        compare(run(command, tmp_path, BATCH_LLM_TARGET=target), expected)
    assert requests(gemini_emulator) == {"list": 5, "create": 2, "generate": 78, "delete": 1}
    assert [cache["state"] for cache in gemini_emulator.caches()] == ["EXPIRED", "DELETED"]
    assert {record["usage"]["cachedContentTokenCount"] for record in gemini_emulator.requests("generate")} == {
        CONTENT_TOKENS
    }
    assert sidecar.stop() == 0


def test_without_anything_an_example_starts_an_emulator_and_ends_it(tmp_path: Path) -> None:
    # It would hold the pipe that this waits for if it went on.
    assert "5 of 5 succeeded" in run("python direct.py", tmp_path)


@pytest.mark.parametrize("example", ["direct.py", "cached.py", "one_off.py", "recurring.py"])
def test_with_a_key_an_example_goes_to_google(example: str, gemini_emulator: GeminiEmulator, tmp_path: Path) -> None:
    # Google's own package takes another address for Google from the environment, and the example knows of no emulator.
    environment = {"GEMINI_API_KEY": "mine", "GOOGLE_GEMINI_BASE_URL": gemini_emulator.url}
    printed = run(f"python {example}", tmp_path, **environment)
    assert "10 of 10 succeeded" in printed or "5 of 5 succeeded" in printed
    expected = REQUESTS.get(example, {"list": 1, "create": 1, "generate": 10})
    assert requests(gemini_emulator) == expected
