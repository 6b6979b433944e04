"""Module names: which layer of the network a weight belongs to."""

from collections.abc import Iterable, Mapping

from worker.engine.models.onnx.uses import Uses
from worker.engine.models.onnx.weights import is_generated


def find_modules(weights: Iterable[str], uses: Uses, scopes: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the module of each weight.

    The dotted prefix of the stored name. Where an exporter made the name up: the scope that it noted for the
    operator that reads the weight, else the name of that operator. A weight of the model itself, without a prefix,
    is a module under its own name.

    Args:
        weights: the names of the weights.
        uses: who reads them.
        scopes: the dotted scope of each step that has one, by step name.
        kinds: what the exporter declared of the stored tensors.

    Returns:
        Module name by weight name.
    """
    return {name: _read_prefix(name) if not is_generated(name, kinds) else _find_scope(name, uses, scopes) for name in weights}


def _read_prefix(name: str) -> str:
    return name.rpartition(".")[0] or name


def _find_scope(name: str, uses: Uses, scopes: Mapping[str, str]) -> str:
    final = [use.step.name for use in uses.find_final(name)]
    readers = [*final, *(use.step.name for use in uses.find_direct(name))]
    noted = [scopes[reader] for reader in readers if scopes.get(reader)]
    return (noted or readers or [name])[0]
