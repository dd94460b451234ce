"""docs/any-language.md: its commands do what the page says, against a real sidecar."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import BIN, REPO, Start

PAGE = (REPO / "docs" / "any-language.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"
EXAMPLES = re.findall(r"```sh\n(.*?)```\n\n```json\n(.*?)```", PAGE, re.DOTALL)
SEARCH_PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(start: Start, folder: Path) -> Iterator[str]:
    """Where the page's sidecar listens, which lives in `folder`."""
    (config,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "sidecar.toml").write_text(config.replace(ADDRESS, "127.0.0.1:0"))
    with contextlib.chdir(folder):
        sidecar = start("--config", "sidecar.toml")
    yield sidecar.wait_for(r"serving on (\S+), unix:sidecar\.sock")[1]
    assert sidecar.stop() == 0


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=lambda text: " ".join(text.split())[:60])
def test_a_command_prints_what_the_page_shows(address: str, folder: Path, command: str, shown: str) -> None:
    tool = command.split()[0]
    if shutil.which(tool, path=SEARCH_PATH) is None:
        if tool == "grpcurl" and "CI" not in os.environ:
            pytest.skip("grpcurl is not installed")
        pytest.fail(f"{tool} is missing: install it as docs/any-language.md says")
    done = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, address)],
        cwd=folder,
        env={**os.environ, "PATH": SEARCH_PATH},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    printed = documents(done.stdout)
    for expected in documents(shown):
        assert any(holds(document, expected) for document in printed), f"not printed: {expected}\n{done.stdout}"


def test_each_tool_is_shown_with_items_batches_and_sockets() -> None:
    for tool, socket in (("buf", "--unix-socket"), ("grpcurl", "unix:")):
        commands = [command for command, _ in EXAMPLES if command.startswith(tool)]
        for part in ("ListStrategies", "ProcessItem", "ProcessBatch", ADDRESS, socket):
            assert any(part in command for command in commands), (tool, part)
    assert len(EXAMPLES) == PAGE.count("```sh\n")


def documents(text: str) -> list[Any]:
    """JSON, one document after another."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def holds(whole: Any, part: Any) -> bool:
    """Whether what is shown is there, of objects maybe beside more."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and holds(whole[key], part[key]) for key in part)
    if isinstance(part, list) and isinstance(whole, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)
