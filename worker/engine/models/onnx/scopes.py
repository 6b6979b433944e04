"""Which module of the exported network a node belongs to."""

import ast
from collections.abc import Sequence

from onnx import NodeProto

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
NAMESPACE = "namespace"


def read_scope(node: NodeProto) -> str | None:
    """Return the dotted module path that the exporter noted for the node; "" is the model itself, None is unknown.

    The default exporter writes a list of scopes whose last entry is the operator itself; older versions of it
    write `: Net/layer: Linear/linear: aten.linear`; the legacy exporter writes paths as node names, `/layer/MatMul`.
    """
    metadata = {entry.key: entry.value for entry in node.metadata_props if entry.key in {NAME_SCOPES, NAMESPACE}}
    if NAME_SCOPES in metadata:
        scopes = _read_list(metadata[NAME_SCOPES])
        if len(scopes) > 1:
            return scopes[-2]
    if NAMESPACE in metadata:
        parts = [part.split(":")[0].strip() for part in metadata[NAMESPACE].split("/")]
        if len(parts) > 1:
            return parts[-2]
    if node.name.startswith("/"):
        return join_path(node.name.split("/")[1:-1])
    return None


def _read_list(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []  # a damaged remark is no remark; the node's name is asked next
    return [str(entry) for entry in value] if isinstance(value, list) else []


def join_path(parts: Sequence[str]) -> str:
    """Return a dotted module path; a part that repeats its parent's name replaces it.

    >>> join_path(["features", "features.0", "conv"])
    'features.0.conv'
    """
    path: list[str] = []
    for part in parts:
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)
