"""Fixtures: `pytest_plugins = ["batch_llm.emulator.pytest_plugin"]` in a conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .handle import GeminiEmulator
from .process import running_emulator


@pytest.fixture(scope="session")
def gemini_emulator_process() -> Iterator[GeminiEmulator]:
    """One emulator for the whole session, in a process of its own; it keeps the bodies of requests."""
    with running_emulator("--keep-bodies") as emulator:
        yield emulator


@pytest.fixture
def gemini_emulator(gemini_emulator_process: GeminiEmulator) -> GeminiEmulator:
    """The session's emulator, as if it had just been started: no caches, no rules, an empty log."""
    gemini_emulator_process.reset()
    return gemini_emulator_process
