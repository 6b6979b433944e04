"""The version of Faultline; the engine's version is part of every request digest."""

VERSION = "0.1.0"
ENGINE_VERSION = VERSION
