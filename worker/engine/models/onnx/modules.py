"""Module names: which layer of the network a weight belongs to."""

from collections.abc import Iterable, Mapping

from worker.engine.models.onnx.exporter import Exporter
from worker.engine.models.onnx.uses import Uses
from worker.engine.models.onnx.weights import find_product


def find_modules(weights: Iterable[str], uses: Uses, scopes: Mapping[str, str], exporter: Exporter) -> dict[str, str]:
    """Return the module of each weight.

    The dotted prefix of the stored name; "" is the model itself. Where an exporter made the name up: the scope that
    it noted for the operator that reads the weight, else the module of another parameter of that operator, else the
    name of that operator, where a bias that is added to a product belongs to the product.

    Args:
        weights: the names of the weights.
        uses: who reads them.
        scopes: the dotted scope of each step that has one, by step name.
        exporter: what the file says of its tensors.

    Returns:
        Module name by weight name.
    """
    names = tuple(weights)
    named = {name: name.rpartition(".")[0] for name in names if not exporter.is_generated(name)}
    return {name: named[name] if name in named else _find_scope(name, uses, scopes, named) for name in names}


def _find_scope(name: str, uses: Uses, scopes: Mapping[str, str], named: Mapping[str, str]) -> str:
    final = uses.find_final(name)
    readers = [use.step.name for use in (*final, *uses.find_direct(name))]
    noted = [scopes[reader] for reader in readers if scopes.get(reader)]
    siblings = [named[other] for use in final for other in use.list_parameters() if named.get(other)]
    products = [product for use in final if (product := find_product(use, uses)) is not None]
    return (noted or siblings or products or readers or [name])[0]
