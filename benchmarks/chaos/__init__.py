"""Chaos: a deployment that is mistreated in every way we know of, and a count of what it lost."""
