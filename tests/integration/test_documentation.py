"""What the documents say is what the programs do."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

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


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (REPO / link).exists()] == []


@pytest.mark.parametrize("command", ["batch-llm-sidecar", "batch-llm"])
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run([BIN / command, "--help"], capture_output=True, text=True, check=True)
    assert command in done.stdout
    assert subprocess.run([BIN / command, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    wrong = subprocess.run([BIN / command, "no-such-command"], capture_output=True, text=True)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
