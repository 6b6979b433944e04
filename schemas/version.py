"""The version of Faultline; the engine's version is part of every request digest."""

VERSION = "0.1.0"
ENGINE_VERSION = "0.3.0"
"""Raised whenever a number moves: a stored report of an older engine is then not reused."""
