"""Data: readers that give named arrays, one row per example."""
