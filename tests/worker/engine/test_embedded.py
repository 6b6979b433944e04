"""A corruption of some tensors as one of more of them: read in stretches it is what a vector with zeros around it is."""

import pytest
import torch

from worker.engine.corruption import LONG
from worker.engine.scopes import Embedded, Layout

SIZES = {"a": 5, "b": 3, "c": 4, "d": 2}
WEIGHTS = {name: torch.zeros(size) for name, size in SIZES.items()}


@pytest.mark.parametrize("names", [("a",), ("d", "b"), ("c", "a", "d")])
def test_every_stretch_is_that_of_the_vector(names: tuple[str, ...]) -> None:
    whole, inner = Layout(WEIGHTS, tuple(SIZES)), Layout(WEIGHTS, names)
    corruption = torch.randn(inner.size, generator=torch.Generator().manual_seed(0))
    pieces = inner.split(corruption)
    wanted = torch.cat([pieces.get(name, torch.zeros(size)) for name, size in SIZES.items()])
    dense = whole.embed(inner, corruption)
    assert isinstance(dense, torch.Tensor)
    assert torch.equal(dense, wanted)
    lazy = Embedded(corruption, tuple((whole.places[name], place) for name, place in inner.places.items()), whole.size)
    assert lazy.numel() == whole.size
    for start in range(whole.size):
        for stop in range(start, whole.size + 1):
            assert torch.equal(lazy[start:stop], wanted[start:stop])


def test_a_long_one_is_never_held_whole() -> None:
    weights = {"a": torch.zeros(LONG), "b": torch.ones(8)}
    whole, inner = Layout(weights, ("a", "b")), Layout(weights, ("b",))
    found = whole.embed(inner, torch.arange(8.0))
    assert isinstance(found, Embedded)
    assert found.numel() == LONG + 8
    assert found[LONG - 2 :].tolist() == [0.0, 0.0, *range(8)]
    assert torch.equal(whole.apply(found)["b"], torch.arange(1.0, 9.0))
