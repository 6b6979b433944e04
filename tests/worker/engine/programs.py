"""Small programs put together by hand, so that engine tests need no model file."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.data.dataset import Dataset
from worker.engine.models.program import InputSpec, Program, Step
from worker.engine.objective import Objective
from worker.engine.session import Session


def build_mlp(sizes: tuple[int, ...], seed: int = 0, activation: str = "relu") -> Program:
    """Return a fully connected program with weights layer0.weight, layer0.bias, ..."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    steps: list[Step] = []
    value = "x"
    for i, (wide, narrow) in enumerate(pairwise(sizes)):
        weights[f"layer{i}.weight"] = torch.randn(narrow, wide, generator=generator) / wide**0.5
        weights[f"layer{i}.bias"] = 0.1 * torch.randn(narrow, generator=generator)
        steps.append(make_step("linear", functional.linear, (value, f"layer{i}.weight", f"layer{i}.bias"), f"linear{i}"))
        value = f"linear{i}"
        if i < len(sizes) - 2:
            steps.append(make_step(activation, getattr(torch, activation), (value,), f"active{i}"))
            value = f"active{i}"
    return build_program(weights, steps, (value,), (None, sizes[0]))


def make_step(operator: str, function: object, inputs: tuple[str, ...], output: str, **traits: bool) -> Step:
    """Return a step with one output."""
    return Step(name=output, operator=operator, function=function, inputs=inputs, outputs=(output,), **traits)  # type: ignore[arg-type]


def build_program(
    weights: dict[str, Tensor], steps: list[Step], outputs: tuple[str, ...], shape: tuple[int | None, ...] = (None, 3)
) -> Program:
    """Return a program with one float input `x`; modules are the dotted prefixes."""
    return Program(
        format="torchscript",
        producer="test",
        opset=None,
        inputs=(InputSpec("x", torch.float32, shape),),
        outputs=outputs,
        weights=weights,
        constants={},
        steps=tuple(steps),
        modules={name: name.rpartition(".")[0] for name in weights},
    )


def build_session(
    program: Program,
    examples: int = 40,
    classes: int = 4,
    seed: int = 1,
    micro_batch: int = 16,
    objective: Objective | None = None,
) -> Session:
    """Return the program on random inputs and class labels."""
    generator = torch.Generator().manual_seed(seed)
    width = (program.inputs[0].shape or (None, 1))[1]
    inputs = torch.randn(examples, width or 1, generator=generator)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    return Session(program, Dataset({"x": inputs}, labels), objective or Objective(), micro_batch)
