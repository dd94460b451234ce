"""What a sidecar says at its start; tests/integration/test_process.py has the process."""

import importlib.metadata
import logging
import sys

import pytest

from batch_llm.sidecar import server
from batch_llm.strategies.gemini import sdk


def test_it_says_which_google_genai_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "batch_llm")
    server._tell_sdk()
    assert caplog.messages == [f"google-genai {importlib.metadata.version('google-genai')}"]


def test_it_says_that_google_genai_is_missing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sdk.sdk_version() is not None
    monkeypatch.setattr(sys, "path", [])  # where installed packages are looked for
    server._tell_sdk()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "google-genai is not installed, Gemini strategies will fail; pip install 'batch-llm[gemini]'"
    )
