"""Placement: where a job waits, how long, and beside how many of its owner's."""

from dataclasses import dataclass
from typing import Final

DEFAULT_DEVICE: Final = "cpu"
DEFAULT_PRIORITY: Final = 5


@dataclass(frozen=True)
class Placement:
    """What decides when a job runs, beside the order of arrival.

    device: the class of device whose workers may take it. priority: 0 is served first. max_running: how many jobs of its owner
    may run at once, this one included; 0: any number. deadline_s: from now; None: no deadline.
    """

    device: str = DEFAULT_DEVICE
    priority: int = DEFAULT_PRIORITY
    max_running: int = 0
    deadline_s: float | None = None


ANYWHERE: Final = Placement()
