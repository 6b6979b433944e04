"""Placement: where a job waits, how long, and beside how many of its owner's."""

from dataclasses import dataclass
from typing import Final

DEFAULT_DEVICE: Final = "cpu"
DEFAULT_PRIORITY: Final = 5


@dataclass(frozen=True)
class Placement:
    """What decides when a job runs, beside the order of arrival.

    device: the class of device whose workers may take it. priority: 0 is served first. deadline_s: from now; None: no deadline.
    Of its owner's jobs, this one included, max_running may run at once and max_live be queued or running; 0: any number.
    """

    device: str = DEFAULT_DEVICE
    priority: int = DEFAULT_PRIORITY
    max_running: int = 0
    deadline_s: float | None = None
    max_live: int = 0


ANYWHERE: Final = Placement()
