"""Matrix products."""

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import align, aligned
from worker.engine.models.onnx.registry import Family, Node

operator = Family("linear")

operator("MatMul", parameters=(0, 1))(aligned(torch.matmul))
operator("Det", since=11)(torch.det)


@operator("Gemm", since=7, parameters=(0, 1, 2))
def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    """Alpha A B + beta C, A and B transposed on request."""
    a = a.t() if transA else a
    b = b.t() if transB else b
    if c is None:
        return torch.mm(a, b) if alpha == 1.0 else alpha * torch.mm(a, b)
    if not a.is_floating_point():
        return int(alpha) * torch.mm(a, b) + int(beta) * c
    return torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _read_equation(node: Node) -> dict[str, str]:
    return {"equation": node.attributes["equation"].replace(" ", "")}


@operator("Einsum", since=12, parameters=(0, 1), prepare=_read_equation)
def einsum(*factors: Tensor, equation: str) -> Tensor:
    """Sum of products by index letters."""
    return torch.einsum(equation, *align(*factors))
