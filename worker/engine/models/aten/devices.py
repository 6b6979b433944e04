"""Where a program is: steps ask for its device, so that a file with `cpu` baked in runs where it is moved."""

import torch
from torch import Tensor

from worker.engine.models.aten.draft import Draft
from worker.engine.models.aten.operators import DEVICE
from worker.engine.models.aten.state import State

ANCHOR = "device_anchor"
"""A constant without elements that Program.to moves, so that steps can ask it where the program is."""


def draft_device() -> Draft:
    """Return the step that asks the anchor."""
    return Draft(DEVICE, "prim::device", _find_device, [ANCHOR], [DEVICE], shape_only=True)


def _find_device(anchor: Tensor) -> torch.device:
    return anchor.device


class DeviceFollower:
    """Brings stored integer tensors to the device where they index others.

    Program.to leaves small integer tensors on the CPU, for shape arithmetic. drafts: the steps that move them.
    """

    def __init__(self, state: State) -> None:
        self.drafts: list[Draft] = []
        self._state = state
        self._moved: set[str] = set()

    def follow(self, name: str) -> str:
        """Return the name under which steps find a stored tensor on the program's device."""
        tensor = self._state.constants.get(name)
        if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.dim() == 0:
            return name
        moved = f"%{name} on device"
        if name not in self._moved:
            self._moved.add(name)
            self.drafts.append(Draft(f"{name}/to", "prim::follow_device", Tensor.to, [name, DEVICE], [moved]))
        return moved
