"""Boxes, moved samples and n-grams against ONNX Runtime, and their gradients against differences in float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.onnx.operators.convolution import deformed_conv
from worker.engine.models.onnx.operators.regions import max_roi_pool, roi_align
from worker.engine.models.onnx.operators.windows import Window

BOXES = np.array([[0.5, 1.0, 5.5, 6.0], [-1.0, 0.0, 3.0, 9.0], [2.2, 2.4, 2.6, 2.5]], np.float32)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _compare(path: Path, inputs: dict[str, Tensor]) -> None:
    expected = run_reference(path, inputs, threads=1)["y"]
    with torch.no_grad():
        found = load_onnx(path).forward({}, inputs)["y"]
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_aligned_boxes(tmp_path: Path, mode: str, samples: int, coordinates: str) -> None:
    stored = [initializer("boxes", BOXES), initializer("batches", np.array([0, 1, 1]))]
    attributes: dict[str, Any] = {"output_height": 3, "output_width": 2, "sampling_ratio": samples, "spatial_scale": 0.7}
    aligned = node(
        "RoiAlign", ["x", "boxes", "batches"], ["y"], mode=mode, coordinate_transformation_mode=coordinates, **attributes
    )

    _compare(save(tmp_path, [aligned], stored=stored), {"x": torch.rand(2, 3, 8, 8) + 0.1})


def test_largest_elements_of_boxes(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 0, 7, 7], [1, 2, 3, 6, 5], [1, 5, 5, 30, 30], [0, 4, 4, 2, 2]], np.float32)
    pool = node("MaxRoiPool", ["x", "boxes"], ["y"], pooled_shape=[3, 2], spatial_scale=0.8)

    _compare(save(tmp_path, [pool], stored=[initializer("boxes", boxes)]), {"x": torch.randn(2, 3, 8, 8)})


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [2, 1], "group": 2, "offset_group": 2},
        {"offset_group": 4, "pads": [1, 1, 1, 1]},
    ],
)
def test_deformed_convolutions(tmp_path: Path, attributes: dict[str, Any]) -> None:
    group, offset_group = attributes.get("group", 1), attributes.get("offset_group", 1)
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    gaps = attributes.get("dilations", [1, 1])
    sizes = [(9 + pads[n] + pads[n + 2] - (k - 1) * gaps[n] - 1) // strides[n] + 1 for n, k in enumerate((3, 2))]
    stored = [
        initializer("w", torch.randn(6, 4 // group, 3, 2).numpy()),
        initializer("o", (2 * torch.randn(2, offset_group * 12, *sizes)).numpy()),
        initializer("b", torch.randn(6).numpy()),
        initializer("m", torch.rand(2, offset_group * 6, *sizes).numpy()),
    ]
    conv = node("DeformConv", ["x", "w", "o", "b", "m"], ["y"], **attributes)

    _compare(save(tmp_path, [conv], stored=stored), {"x": torch.randn(2, 4, 9, 9)})


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_counts_of_grams(tmp_path: Path, mode: str) -> None:
    grams = node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        mode=mode,
        min_gram_length=1,
        max_gram_length=3,
        max_skip_count=2,
        ngram_counts=[0, 3, 9],
        ngram_indexes=[4, 0, 2, 1, 3, 5, 6],
        pool_int64s=[1, 2, 3, 1, 2, 2, 2, 3, 1, 1, 2, 3],
        weights=[0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
    )

    _compare(save(tmp_path, [grams], inputs={"x": 7}), {"x": torch.randint(1, 4, (3, 9))})


def test_gradients_of_moved_samples() -> None:
    window = Window(None, None, None, (1, 1), (1, 1), None, ceil=False)
    x, weight = torch.randn(1, 2, 4, 4).double(), torch.randn(3, 2, 2, 2).double()
    offset, mask = torch.randn(1, 8, 5, 5).double(), torch.rand(1, 4, 5, 5).double()
    leaves = [part.requires_grad_() for part in (x, weight, offset, mask)]

    def compute(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return deformed_conv(x, weight, offset, None, mask, window=window, groups=1, offset_groups=1)

    assert torch.autograd.gradcheck(compute, leaves)


def test_gradients_of_boxes() -> None:
    x = torch.randn(2, 2, 6, 6).double().requires_grad_()
    boxes, batches = torch.from_numpy(BOXES).double(), torch.tensor([0, 1, 1])
    framed = torch.cat((batches.unsqueeze(1).double(), boxes), 1)

    def align(x: Tensor) -> Tensor:
        return roi_align(x, boxes, batches, sizes=(2, 2), samples=0, scale=0.6, offset=0.5, largest=False)

    assert torch.autograd.gradcheck(align, [x])
    assert torch.autograd.gradcheck(lambda x: max_roi_pool(x, framed, sizes=(2, 2), scale=0.6), [x])
