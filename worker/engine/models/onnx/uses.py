"""Who reads a stored tensor, directly or through operators that only rearrange it."""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.engine.models.onnx.registry import Operator
from worker.engine.models.program import Step, walk_steps


@dataclass(frozen=True)
class Use:
    """One slot of one step."""

    step: Step
    operator: Operator
    slot: int

    def list_parameters(self) -> list[str]:
        """Return what the step reads in its slots of parameters."""
        return [name for slot, name in enumerate(self.step.inputs) if slot in self.operator.parameters]


class Uses:
    """The readers of every value, blocks included."""

    def __init__(self, steps: Iterable[Step], operators: dict[str, Operator]) -> None:
        self._readers: dict[str, list[Use]] = {}
        self._writers: dict[str, Step] = {}
        for step in walk_steps(steps):
            self._writers.update(dict.fromkeys(step.outputs, step))
            for slot, name in enumerate(step.inputs):
                self._readers.setdefault(name, []).append(Use(step, operators[step.name], slot))

    def find_writer(self, name: str) -> Step | None:
        """Return the step that computes the value, None for inputs and stored tensors."""
        return self._writers.get(name)

    def find_direct(self, name: str) -> list[Use]:
        """Return the steps that read the value itself."""
        return self._readers.get(name, [])

    def find_final(self, name: str) -> list[Use]:
        """Return the steps that compute with the value, seen through those that only rearrange it."""
        found: list[Use] = []
        waiting, seen = [name], {name}
        while waiting:
            for use in self._readers.get(waiting.pop(), []):
                if not use.operator.relays:
                    found.append(use)
                    continue
                fresh = [output for output in use.step.outputs if output not in seen]
                seen.update(fresh)
                waiting += fresh
        return found
