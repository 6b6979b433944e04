"""One operator or habit at a time, traced and scripted, against eager: how arguments, dtypes and devices are bound."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.engine.models.torchscript.conftest import Import


def constant_first(x: Tensor) -> Tensor:
    return 1.0 - x + torch.where(x > 0, 2.0, x) + torch.pow(2.0, x)


def reductions(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True) + x.mean() + x.std(dim=0, unbiased=False) + x.amax(1, keepdim=True) + x.norm(p=1)


def sorting(x: Tensor) -> Tensor:
    values, places = torch.topk(x, 2, dim=1)
    ordered, _ = torch.sort(x, dim=1, descending=True)
    return values * places + ordered[:, :2] + x.cumsum(1)[:, 1:3]


def indexing(x: Tensor) -> Tensor:
    rows = torch.arange(x.size(0)).flip(0)
    return x[rows, 1:].sum(1) + x[..., -1] + x[:, [0, 2]].prod(1) + x.gather(1, rows.unsqueeze(1) % 4).squeeze(1)


def boolean_indexing(x: Tensor) -> Tensor:
    return x[x > 0] * 2


def scattering(x: Tensor) -> Tensor:
    target = torch.zeros(x.shape[0], 6)
    places = torch.tensor([[0, 2, 4, 5]]).expand(x.shape[0], -1)
    return target.scatter_add(1, places, x).index_fill(1, torch.tensor([1]), 3.0)


def factories(x: Tensor) -> Tensor:
    made = torch.ones(3, 4) + torch.full((4,), 0.5) + torch.linspace(0.0, 1.0, 4) + torch.arange(4) + torch.arange(0.0, 2.0, 0.5)
    return x * made + torch.zeros_like(x) + x.new_full((4,), 2.0) + torch.eye(3, 4) + torch.tensor([0.5, 1.5, 2.5, 3.5])


def conversions(x: Tensor) -> Tensor:
    return x.to(torch.float64).float() + x.int().to(x.dtype) + (x > 0).type_as(x) + x.half().to(torch.float32)


def shapes(x: Tensor) -> Tensor:
    rows, columns = x.shape
    y = x.reshape(rows, 2, columns // 2).permute(1, 0, 2).contiguous().view(2, -1)
    return y.unsqueeze(0).expand(3, -1, -1).flatten(1).narrow(1, 0, rows) + float(rows) + x.numel()


def joining(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    parts = torch.split(x, [1, 3], dim=1)
    return torch.cat([first, second * 2, parts[0]], dim=1) + torch.stack([x.sum(1)] * 5, dim=1)


def products(x: Tensor) -> Tensor:
    y = torch.einsum("bi,ci->bc", x, x) + x @ x.t() + torch.addmm(torch.ones(3, 3), x, x.t(), alpha=0.5)
    return torch.baddbmm(torch.zeros(1, 3, 3), y.unsqueeze(0), y.unsqueeze(0))[0] + torch.outer(x[:, 0], x[:, 1])


def softness(x: Tensor) -> Tensor:
    y = (
        functional.log_softmax(x, dim=-1)
        + functional.softplus(x, beta=2.0)
        + functional.glu(torch.cat([x, x], 1))
        + functional.mish(x)
    )
    return (
        y
        + functional.gelu(x, approximate="tanh")
        + functional.leaky_relu(x, 0.3)
        + functional.normalize(x)
        + x.logsumexp(1, True)
    )


def images(x: Tensor) -> Tensor:
    y = x.reshape(1, 3, 2, 2)
    y = functional.interpolate(y, scale_factor=2.0, mode="bicubic", align_corners=True) + functional.pad(
        y, [1, 1, 1, 1], mode="reflect"
    )
    y = functional.max_pool2d(y, 2) + functional.avg_pool2d(y, 2, count_include_pad=False) + functional.adaptive_max_pool2d(y, 2)
    return functional.interpolate(functional.pixel_shuffle(y.repeat(1, 4, 1, 1), 2), size=[3, 5])


def numbers(x: Tensor) -> Tensor:
    scale = math.sqrt(x.size(-1)) * max(x.size(0), 2) - min(3, 4)
    return x * scale + x.size(1) // 3 + x.size(1) % 3 - abs(-2) + int(2.7) + 7**2


def looking_away(x: Tensor) -> Tensor:
    return x * x.detach() + x.clone().masked_fill(x > 1, 0.0).clamp(-1, 1)


def counting(x: Tensor) -> Tensor:
    top = x.argmax(1)
    return functional.one_hot(top, 4) * x + torch.nonzero(x > -100).sum() + (x == x.max()).sum()


FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    constant_first, reductions, sorting, indexing, boolean_indexing, scattering, factories, conversions, shapes, joining,
    products, softness, images, numbers, looking_away, counting,
]  # fmt: skip


class Wrapper(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 1.5, -1.0, 2.0]))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * self.scale)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("route", ["script", "trace"])
def test_function_agrees_with_eager(function: Callable[[Tensor], Tensor], route: str, import_model: Import) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    model = Wrapper(torch.jit.script(function) if route == "script" else function)
    program = import_model(model, x) if route == "trace" else import_model(model)
    leaf = program.weights["scale"].clone().requires_grad_()
    found, expected = program.forward({"scale": leaf}, {"x": x})["output"], model(x)
    torch.testing.assert_close(found, expected)
    ours, theirs = (
        torch.autograd.grad(found.square().sum(), leaf)[0],
        torch.autograd.grad(expected.square().sum(), model.scale)[0],
    )
    torch.testing.assert_close(ours, theirs)
    if function not in {boolean_indexing, counting}:
        moved = program.to("meta").forward({}, {"x": x.to("meta")})["output"]
        assert moved.device.type == "meta"
    wide = program.cast(torch.float64).forward({}, {"x": x.double()})["output"]
    if expected.is_floating_point() and function is not conversions:
        assert wide.dtype == torch.float64


def test_only_a_boolean_index_makes_a_shape_that_depends_on_values(import_model: Import) -> None:
    x = torch.randn(3, 4)
    for function, dynamic in ((indexing, False), (boolean_indexing, True)):
        steps = [step for step in import_model(Wrapper(function), x).steps if step.operator == "aten::index"]
        assert steps
        assert {step.dynamic_shape for step in steps} == {dynamic}
