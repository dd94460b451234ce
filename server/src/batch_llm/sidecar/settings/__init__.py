"""The operator's file: every key with its default and description, in one place."""

from .file import ENVIRONMENT_PREFIX, ConfigError, Settings, check_name, explain, load, ready_providers
from .journal import JournalSettings
from .providers import (
    PROVIDER_KINDS,
    CooldownSettings,
    GeminiProvider,
    LocalProvider,
    OpenAIProvider,
    Provider,
    PythonProvider,
    SimulatedProvider,
)
from .section import LONGEST_SECONDS
from .server import ServerSettings
from .strategy import GenerationSettings, RetrySettings, StrategySpec, check_fit

__all__ = [
    "ENVIRONMENT_PREFIX",
    "LONGEST_SECONDS",
    "PROVIDER_KINDS",
    "ConfigError",
    "CooldownSettings",
    "GeminiProvider",
    "GenerationSettings",
    "JournalSettings",
    "LocalProvider",
    "OpenAIProvider",
    "Provider",
    "PythonProvider",
    "RetrySettings",
    "ServerSettings",
    "Settings",
    "SimulatedProvider",
    "StrategySpec",
    "check_fit",
    "check_name",
    "explain",
    "load",
    "ready_providers",
]
