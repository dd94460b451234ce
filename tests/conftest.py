"""Fixtures for all tests."""

from importlib.util import find_spec

# The client's tests also run where the client alone is installed.
pytest_plugins = ["batch_llm.emulator.pytest_plugin"] if find_spec("batch_llm") else []
