"""Fusion of steps: patterns, kernels, and the rewriting of a plan's steps."""

from worker.engine.models.fusion.kernels import Known
from worker.engine.models.fusion.rewriting import fuse_steps

__all__ = ["Known", "fuse_steps"]
