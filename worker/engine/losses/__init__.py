"""Losses that a model computes: the audited one itself, or a second small file."""
