"""What the documents say is what the programs do."""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
import subprocess
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from batch_llm import LLMWorkItem, ParallelBatchProcessor
from batch_llm.caching import CacheState
from batch_llm.emulator import GeminiEmulator
from batch_llm.strategies.prices import ListPrices
from batch_llm_client import BatchClient

from .conftest import BIN, REPO, Start

README = (REPO / "README.md").read_text()


def test_the_table_of_settings_is_what_the_command_prints() -> None:
    printed = subprocess.run([BIN / "batch-llm-sidecar", "settings"], capture_output=True, text=True, check=True)
    assert (REPO / "docs" / "configuration.md").read_text().endswith(printed.stdout)


def code(language: str, containing: str) -> str:
    (found,) = [block for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in block]
    return found


def test_the_client_in_the_readme_runs(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = code("toml", "[strategies.triage]").replace('kind = "local"', 'kind = "simulated"')
    (tmp_path / "sidecar.toml").write_text(re.sub(r"grammar = .*\n", "", config))  # which only a model can follow
    (tmp_path / "handbook.md").write_text("A handbook. " * 100)
    sidecar = start("--listen", "127.0.0.1:0", "--config", str(tmp_path / "sidecar.toml"))
    target = sidecar.wait_for(r"serving on (\S+)")[1]
    with BatchClient(target) as client:
        assert client.get_strategy("triage").spec.cached_content
    program = tmp_path / "program.py"
    program.write_text(code("python", "BatchClient").replace("127.0.0.1:50051", target))
    runpy.run_path(str(program))
    printed = capsys.readouterr().out
    assert "1 simulated: Ticket: My parcel has not arrived." in printed
    assert re.search(r"9\d % of the input came from the cache", printed)
    assert sidecar.stop() == 0


def test_the_processor_in_the_readme_runs(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import asyncio\n{code('python', 'ParallelBatchProcessor')}\nasyncio.run(main())\n")
    done = subprocess.run([BIN / "python", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1 0 3\n"


PAGES = [
    REPO / "README.md",
    *(
        page
        for folder in ("docs", "examples", "deploy", "client_py", "server")
        for page in REPO.glob(f"{folder}/**/*.md")
        if "node_modules" not in page.parts
    ),
    *(REPO / folder / "README.md" for folder in ("client_go", "client_ts", "client_java", "tests/conformance")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert links or page.name != "README.md" or page.parent != REPO


@pytest.mark.parametrize("command", ["batch-llm-sidecar", "batch-llm"])
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run([BIN / command, "--help"], capture_output=True, text=True, check=True)
    assert command in done.stdout
    assert subprocess.run([BIN / command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    wrong = subprocess.run([BIN / command, "no-such-command"], capture_output=True, text=True)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)


# -- Gemini ------------------------------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPO / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


class Notebook:
    """Runs a page's snippets one after another, as the page says: in one namespace, with `await` at the top."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    async def run(self, snippet: str) -> None:
        code = compile(snippet, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        done = eval(code, self.names)  # noqa: S307 # `exec` would not give the coroutine
        if inspect.iscoroutine(done):
            await done


@pytest.fixture
async def notebook(at_google: GeminiEmulator) -> AsyncIterator[Notebook]:
    notebook = Notebook()
    yield notebook
    await notebook.names["client"].aio.aclose()


@pytest.fixture
def at_google(gemini_emulator: GeminiEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GeminiEmulator:
    """Google, for those who have a key in the environment: the emulator; and a handbook in the working directory."""
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GEMINI_API_KEY", tmp_path.name)  # a project of its own
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", gemini_emulator.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook.md").write_text("A handbook. " * 1500)
    return gemini_emulator


async def test_the_guide_to_gemini_runs(
    at_google: GeminiEmulator, notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    for snippet in blocks("gemini.md", "python"):
        await notebook.run(snippet)
    hit_rate, effective, cost = capsys.readouterr().out.split()
    assert float(hit_rate) > 99
    assert int(effective) < 0.11 * notebook.names["result"].total_input_tokens
    assert float(cost) > 0
    assert [record["kind"] for record in at_google.requests()] == ["list", "create", *["generate"] * 2, "delete"]

    at_google.answer({"reply": '{"label": "billing"}'}, model="gemini-3.5-flash")
    async with ParallelBatchProcessor(max_workers=1) as processor:
        await processor.add_work(LLMWorkItem("1", notebook.names["cheap"], "I was charged twice."))
        (item,) = (await processor.process_all()).results
    assert (item.output, item.model) == (notebook.names["Triage"](label="billing"), "gemini-3.5-flash")


async def test_the_snippets_before_and_after_the_migration_run(
    at_google: GeminiEmulator, notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    beginning, before, after, deletion, sum_before, sum_after = blocks("migration.md", "python")
    await notebook.run(beginning)
    with pytest.warns(DeprecationWarning, match="cache_refresh_threshold is deprecated"):
        await notebook.run(before)
    policies = [notebook.names["strategy"].context_cache.policy]
    await notebook.run(after)
    policies.append(notebook.names["strategy"].context_cache.policy)
    assert policies[0] == policies[1]
    await notebook.run(sum_before)
    await notebook.run(sum_after)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{notebook.names['cached']} 100 % ")
    assert notebook.names["cached"] > 0
    await notebook.run(deletion)
    requests = [record["kind"] for record in at_google.requests()]
    assert requests == ["list", "create", *["generate"] * 4, "delete"]


@pytest.mark.parametrize("config", blocks("gemini.md", "toml"))
def test_the_configurations_in_the_guide_to_gemini_are_good(config: str, tmp_path: Path) -> None:
    (tmp_path / "handbook.md").write_text("A handbook.")
    (tmp_path / "sidecar.toml").write_text(config)
    command = [BIN / "batch-llm-sidecar", "check-config", str(tmp_path / "sidecar.toml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GEMINI_API_KEY": "any"})
    assert done.returncode == 0, done.stderr


def test_the_guide_names_every_state_of_a_cache() -> None:
    guide = (REPO / "docs" / "gemini.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([A-Z_]+) \|", guide, re.MULTILINE) == [state.name for state in CacheState]


def test_the_guide_counts_right_when_a_cache_pays() -> None:
    guide = (REPO / "docs" / "gemini.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+)` \| ([\d.]+), ([\d.]+) \| (\d+) items \| (\d+) minutes \|", guide, re.MULTILINE)
    assert len(rows) == 3
    for model, fresh, storage, items, minutes in rows:
        prices = ListPrices("google", model)
        rates, rate = prices.rates(10_000), prices.storage_rate()
        assert rates is not None
        assert rate is not None
        assert (rates.input, rate) == (Fraction(fresh) * 10**6, Fraction(storage) * 10**6)
        saved, spent = rates.input - rates.cached_input, rates.input + rate  # by an item, in an hour; of each token
        assert (int(items) - 1) * saved <= spent < int(items) * saved
        assert int(minutes) == round(60 * rates.input / rate)
