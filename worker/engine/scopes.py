"""Scopes: which weights are corrupted together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from schemas.errors import Fault, ScopeError
from worker.engine.corruption import CorruptionSet
from worker.engine.regions import Region, build_region


@dataclass(frozen=True)
class Scope:
    """The weights named in `tensors`, corrupted as one vector of length k."""

    kind: str
    name: str
    tensors: tuple[str, ...]


class NamePattern(NamedTuple):
    """A scope asked for by glob."""

    name: str
    match: str


Grouping = Callable[[Sequence[str]], Mapping[str, tuple[str, ...]]]
"""From weight names to groups of them, by group name."""


def find_scopes(
    asked: Sequence[str | NamePattern],
    weights: Sequence[str],
    modules: Mapping[str, str],
    groupings: Mapping[str, Grouping] | None = None,
) -> list[Scope]:
    """Return the scopes for `model`, `per_module`, `per_tensor`, name patterns and the kinds that `groupings` names.

    Returns:
        The scopes, each with its weights in the file's order; a pattern matches weight names or module names.

    Raises:
        ScopeError: patterns without a match, every one listed.
    """
    scopes: list[Scope] = []
    faults: list[Fault] = []
    for entry in asked:
        if entry == "model":
            scopes.append(Scope("model", "model", tuple(weights)))
        elif entry == "per_tensor":
            scopes += [Scope("per_tensor", name, (name,)) for name in weights]
        elif entry == "per_module":
            scopes += [Scope("per_module", name, tensors) for name, tensors in _group_by_module(weights, modules).items()]
        elif isinstance(entry, str):
            scopes += [Scope(entry, name, tensors) for name, tensors in (groupings or {})[entry](weights).items()]
        else:
            matched = tuple(name for name in weights if fnmatchcase(name, entry.match) or fnmatchcase(modules[name], entry.match))
            if matched:
                scopes.append(Scope("named", entry.name, matched))
            else:
                faults.append(describe_no_match(f"scope {entry.name!r} with pattern {entry.match!r}", weights))
    if faults:
        raise ScopeError(*faults)
    return scopes


def describe_no_match(what: str, weights: Sequence[str]) -> Fault:
    """Return the fault for a scope that matches nothing."""
    shown = ", ".join(weights[:20]) + (f" and {len(weights) - 20} more" if len(weights) > 20 else "")
    return Fault(
        what=f"{what} matches no weight",
        where="/scopes",
        expected="a pattern or name that matches at least one audited weight or module",
        got=f"weights: {shown}",
        advice="patterns are globs over the stored weight names and the module names, such as blocks.*.attn.*",
    )


def _group_by_module(weights: Sequence[str], modules: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name in weights:
        groups.setdefault(modules[name] or name, []).append(name)
    return {module: tuple(names) for module, names in groups.items()}


class Layout:
    """Turns the tensors of a scope into one vector [k] and back."""

    def __init__(
        self, weights: Mapping[str, Tensor], names: Sequence[str], channel_axes: Mapping[str, int | None] | None = None
    ) -> None:
        self.names = tuple(names)
        self._axes = [(channel_axes or {}).get(name) for name in names]
        self._clean = {name: weights[name] for name in names}
        self._sizes = [self._clean[name].numel() for name in names]

    @property
    def size(self) -> int:
        """k, the number of weights in the scope."""
        return sum(self._sizes)

    def compute_norm(self, p: float) -> float:
        """Return the p-norm of the clean weights, in float64."""
        return float(torch.linalg.vector_norm(self.flatten(self._clean), p, dtype=torch.float64))

    def compute_realised_norm(self, corruption: Tensor, p: float) -> float:
        """Return the p-norm of what the weights' number format makes of a corruption: of (w + a) - w as stored."""
        moved = [(value.double() - self._clean[name].double()).reshape(-1) for name, value in self.apply(corruption).items()]
        return float(torch.linalg.vector_norm(torch.cat(moved), p))

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the scope's tensors as one vector [k], in the order of `names`."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def apply(self, corruption: Tensor) -> dict[str, Tensor]:
        """Return w + a as new tensors, computed in the weights' dtype; the clean weights are untouched."""
        pieces = corruption.split(self._sizes)
        return {
            name: clean + piece.to(clean.device, clean.dtype).view(clean.shape)
            for (name, clean), piece in zip(self._clean.items(), pieces, strict=True)
        }

    def split(self, corruption: Tensor) -> dict[str, Tensor]:
        """Return the vector's pieces, flat, by tensor name."""
        return dict(zip(self.names, corruption.split(self._sizes), strict=True))

    def holds(self, other: "Layout") -> bool:
        """Tell whether every tensor of `other` is one of these."""
        return set(self.names).issuperset(other.names)

    def embed(self, other: "Layout", corruption: Tensor) -> Tensor:
        """Return a corruption of the tensors of `other` as one of these tensors: the further weights do not move."""
        pieces = other.split(corruption)
        return torch.cat(
            [
                pieces[name] if name in pieces else corruption.new_zeros(size)
                for name, size in zip(self.names, self._sizes, strict=True)
            ]
        )

    def build_region(self, corruption_set: CorruptionSet) -> Region:
        """Return the corruptions of these tensors that the set allows."""
        return build_region(corruption_set, list(self._clean.values()), self._axes)
