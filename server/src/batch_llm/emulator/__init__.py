"""A Gemini that runs on this machine: the REST API as the real SDK speaks it, for development and tests.

`GeminiEmulator` and `AsyncGeminiEmulator` steer a running one; `running_emulator` starts one. docs/emulator.md.
"""

from .handle import AsyncGeminiEmulator, EmulatorError, GeminiEmulator
from .process import running_emulator

__all__ = ["AsyncGeminiEmulator", "EmulatorError", "GeminiEmulator", "running_emulator"]
