"""Scopes: which weights are corrupted together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from schemas.errors import Fault, ScopeError
from worker.engine.corruption import LONG, Corruption, CorruptionSet, combine_norms, list_stretches, measure_norm
from worker.engine.models.program import OnDemand
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


@dataclass(frozen=True)
class Embedded:
    """A corruption of some tensors as one of more of them, of which nothing else is held: the others do not move.

    places: where each tensor stands in this corruption, and where in the inner one.
    """

    inner: Corruption
    places: tuple[tuple[slice, slice], ...]
    size: int

    def numel(self) -> int:
        """Return k."""
        return self.size

    def __getitem__(self, place: slice, /) -> Tensor:
        """Return a stretch of the corruption."""
        start, stop, _ = place.indices(self.size)
        found = self.inner[:0].new_zeros(stop - start)
        for outer, inner in self.places:
            first, last = max(start, outer.start), min(stop, outer.stop)
            if first < last:
                shift = inner.start - outer.start
                found[first - start : last - start] = self.inner[first + shift : last + shift]
        return found


class Layout:
    """Turns the tensors of a scope into one vector [k] and back."""

    def __init__(
        self, weights: Mapping[str, Tensor], names: Sequence[str], channel_axes: Mapping[str, int | None] | None = None
    ) -> None:
        self.names = tuple(names)
        self._axes = [(channel_axes or {}).get(name) for name in names]
        self._clean = {name: weights[name] for name in names}
        self.places: dict[str, slice] = {}
        self.size = 0
        """k, the number of weights in the scope."""
        for name, clean in self._clean.items():
            self.places[name] = slice(self.size, self.size + clean.numel())
            self.size += clean.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The type that holds all of the scope's weights."""
        return reduce(torch.promote_types, (weight.dtype for weight in self._clean.values()))

    @property
    def size_bytes(self) -> int:
        """The memory of the scope's weights."""
        return sum(weight.nbytes for weight in self._clean.values())

    def compute_norm(self, p: float) -> float:
        """Return the p-norm of the clean weights, in float64."""
        return combine_norms([measure_norm(weight.detach().reshape(-1), p) for weight in self._clean.values()], p)

    def compute_realised_norm(self, corruption: Corruption, p: float) -> float:
        """Return the p-norm of what the weights' number format makes of a corruption: of (w + a) - w as stored."""
        norms = []
        for name, place in self.places.items():
            flat = self._clean[name].detach().reshape(-1)
            for part in list_stretches(len(flat)):
                clean, moved = flat[part], corruption[place.start + part.start : place.start + part.stop]
                norms.append(measure_norm((clean + moved.to(clean)).double() - clean.double(), p))
        return combine_norms(norms, p)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the scope's tensors as one vector [k], in the order of `names`."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def gather(self, leaves: dict[str, Tensor]) -> Tensor:
        """Return the gradients that backward passes left in the leaves as one vector; the leaves are given up one by one."""
        vector = self._clean[self.names[0]].new_empty(self.size, dtype=self.dtype)
        for name, place in self.places.items():
            gradient = leaves.pop(name).grad
            vector[place] = 0 if gradient is None else gradient.reshape(-1)
        return vector

    def apply(self, corruption: Corruption) -> dict[str, Tensor]:
        """Return w + a as new tensors, computed in the weights' dtype; the clean weights are untouched."""
        return {name: self._apply_one(corruption, name) for name in self.names}

    def apply_on_demand(self, corruption: Corruption) -> dict[str, Tensor]:
        """Return w + a, each tensor computed anew where it is read: none is held."""
        return OnDemand(partial(self._apply_one, corruption))

    def _apply_one(self, corruption: Corruption, name: str) -> Tensor:
        clean = self._clean[name]
        return clean + corruption[self.places[name]].to(clean.device, clean.dtype).view(clean.shape)

    def split(self, corruption: Corruption) -> dict[str, Tensor]:
        """Return the vector's pieces, flat, by tensor name."""
        return {name: corruption[place] for name, place in self.places.items()}

    def holds(self, other: "Layout") -> bool:
        """Tell whether every tensor of `other` is one of these."""
        return set(self.names).issuperset(other.names)

    def embed(self, other: "Layout", corruption: Corruption) -> Corruption:
        """Return a corruption of the tensors of `other` as one of these tensors: the further weights do not move."""
        found = Embedded(corruption, tuple((self.places[name], place) for name, place in other.places.items()), self.size)
        return found if self.size > LONG else found[:]

    def build_region(self, corruption_set: CorruptionSet) -> Region:
        """Return the corruptions of these tensors that the set allows."""
        return build_region(corruption_set, list(self._clean.values()), self._axes)
