"""Faults come from a seed, and what became of the items is recorded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random, SystemRandom

import pytest

from batch_llm.emulator import GeminiEmulator

from .house import House
from .report import ROW, Row

MakeHouse = Callable[..., House]
Record = Callable[[Row], None]


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Puts a row into the table; rows of one fault add up."""

    def add(row: Row) -> None:
        record_property(ROW, asdict(row))

    return add


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    """Its seed is printed with a failure; `--seed` draws the same again."""
    seed = request.config.getoption("--seed")
    seed = SystemRandom().randrange(2**32) if seed is None else int(seed)
    print(f"again with --seed {seed}")
    return Random(f"{seed} {request.node.name}")


@pytest.fixture
def make_house(tmp_path: Path, gemini_emulator: GeminiEmulator, random: Random) -> Iterator[MakeHouse]:
    """Makes houses, each with a folder of its own; their processes end with the test."""
    houses: list[House] = []

    def make(journal: str = "sqlite", **fields: object) -> House:
        folder = tmp_path / f"house{len(houses)}"
        folder.mkdir()
        house = House(folder, gemini_emulator, journal, random, **fields)  # type: ignore[arg-type]
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.close()


def on_ci() -> bool:
    return bool(os.environ.get("CI"))
