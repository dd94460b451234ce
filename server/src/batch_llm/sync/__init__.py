"""Waiting and sharing, between tasks and between event loops in several threads."""

from .fair_queue import FairQueue
from .flight import Flight, FlightCancelledError
from .limiter import Limiter
from .lock import Lock
from .shielded import shielded

__all__ = ["FairQueue", "Flight", "FlightCancelledError", "Limiter", "Lock", "shielded"]
