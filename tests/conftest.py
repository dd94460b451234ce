"""Fixtures and options for all tests."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from .contract.postgres import PostgresServer, running_server

# The client's tests also run where the client alone is installed.
pytest_plugins = ["batch_llm.emulator.pytest_plugin"] if find_spec("batch_llm") else []


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults", "tests/faults")
    faults.addoption("--kills", type=int, default=50, help="how often test_sidecar_killed kills it (default: 50)")
    faults.addoption("--seed", help="draw the faults of a run before again; it is printed with a failure")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The URL of a database of the test's own."""
    if postgres.down:
        postgres.start()  # a test that ended it has failed before it could start it again
    return postgres.new_database()
