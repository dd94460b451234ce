"""Fixtures and options for all tests."""

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain

import pytest

from .contract.postgres import PostgresServer, running_server
from .faults.report import rows_of, table

# The client's tests also run where the client alone is installed.
pytest_plugins = ["batch_llm.emulator.pytest_plugin"] if find_spec("batch_llm") else []


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults", "tests/faults")
    faults.addoption("--kills", type=int, default=50, help="how often test_sidecar_killed kills it (default: 50)")
    faults.addoption("--seed", help="draw the faults of a run before again; it is printed with a failure")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults: here, for the processes that run the tests print nothing."""
    reports = chain.from_iterable(terminalreporter.stats.values())
    calls = (one for one in reports if isinstance(one, pytest.TestReport) and one.when == "call")
    if rows := rows_of(calls):
        terminalreporter.section("faults")
        for line in table(rows):
            terminalreporter.line(line)


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
