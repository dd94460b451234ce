"""A model on this machine, run by llama.cpp. Importing this imports no model library."""

from .model import LocalModel
from .strategy import LocalStrategy

__all__ = ["LocalModel", "LocalStrategy"]
