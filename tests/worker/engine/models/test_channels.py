"""Where PyTorch's operators have the output channels of their weights; those of ONNX stand in onnx/test_roles.py."""

from typing import Any

import pytest
import torch

from tests.worker.engine.programs import build_program, make_step
from worker.engine.models.channels import find_channel_axes
from worker.engine.models.program import Step


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "axis"),
    [
        ("aten::linear", "xw", {}, 0),
        ("aten::matmul", "xw", {}, -1),
        ("aten::matmul", "wx", {}, -2),
        ("aten::mm", "xw", {}, -1),
        ("aten::addmm", "bxw", {}, -1),
        ("aten::addmm", "bwx", {}, -2),
        ("aten::conv2d", "xw", {}, 0),
        ("aten::conv_transpose2d", "xw", {}, 1),
        ("aten::_convolution", "xw", {"transposed": False}, 0),
        ("aten::_convolution", "xw", {"transposed": True}, 1),
        ("aten::embedding", "wx", {}, 0),
        ("aten::lstm", "xw", {}, 0),
        ("aten::layer_norm", "xw", {}, 0),
    ],
)
def test_channels_lie_where_the_operator_says(operator: str, inputs: str, attributes: dict[str, Any], axis: int) -> None:
    step = Step("y", operator, torch.relu, tuple(inputs), ("y",), attributes)
    assert find_channel_axes(build_program({"w": torch.ones(2, 3)}, [step], ("y",))) == {"w": axis}


def test_a_weight_that_is_cast_or_not_read_at_all_has_them_too() -> None:
    steps = [make_step("aten::cast", torch.relu, ("w",), "v"), make_step("aten::mm", torch.relu, ("x", "v"), "y")]
    assert find_channel_axes(build_program({"w": torch.ones(2, 3), "u": torch.ones(2, 3)}, steps, ("y",))) == {"w": -1, "u": 0}
