"""The last part of a program as an ONNX Runtime session: the weights of its first stage are inputs, all others constants."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from worker.engine.models.onnx.reference import ERRORS, SILENT
from worker.engine.models.program import Environment, Program, Step
from worker.engine.shortage import is_out_of_memory

IR_VERSION = 10
NUMBERS = "#numbers"
DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}
"""What torch and ONNX Runtime share without a copy and compute alike; half precision is rounded elsewhere."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})
SLOWER_FUSED = ["SkipLayerNormFusion"]
"""What takes longer as one on the CPU: a sum and its layer normalisation, three to six times, whatever the width."""


class NotPortableError(Exception):
    """A part of the program that ONNX Runtime does not run as the file has it."""


@dataclass(frozen=True)
class Suffix:
    """A session and what it reads, in order; `weights` are the clean values of the weights among it."""

    session: onnxruntime.InferenceSession
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Any]

    def run(self, environment: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the outputs from the values at the cut and the corrupted weights; None where the runtime gives none."""
        feeds = {}
        for name in self.reads:
            if name in parameters:
                feeds[name] = parameters[name].numpy()
            else:
                feeds[name] = self.weights[name] if name in self.weights else environment[name].numpy()
        try:
            found = self.session.run(self.outputs, feeds)
        except ERRORS as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from None
            return None
        if not all(isinstance(value, np.ndarray) for value in found):
            return None
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}


def build_suffix(
    program: Program, steps: Sequence[Step], known: Environment, weights: Iterable[str], crossing: Mapping[str, Any]
) -> Suffix | None:
    """Return a session of the steps, or None where ONNX Runtime cannot run them.

    Args:
        program: where the steps are from.
        steps: the steps to run, in order.
        known: constants, clean weights and what follows from them.
        weights: the names of the weights that are inputs.
        crossing: an example of each value that the steps read from elsewhere.

    Returns:
        The session, with `known` as constants, its threads those of torch.
    """
    inputs = {**{name: program.weights[name] for name in weights}, **crossing}
    try:
        model = _write_model(program, steps, known, inputs)
        session = _open(model)
    except (NotPortableError, ValueError, *ERRORS):
        return None  # the interpreter runs everything; this is the faster way only
    reads = tuple(entry.name for entry in session.get_inputs())
    clean = {name: program.weights[name].numpy() for name in reads if name in program.weights}
    return Suffix(session, reads, program.outputs, clean)


@functools.cache  # once per process: all sessions allocate from one arena
def _share_working_memory() -> None:
    memory = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, None)


def _open(model: ModelProto) -> onnxruntime.InferenceSession:
    options = _make_options()
    if not any(node.op_type in CONVOLUTIONS for node in model.graph.node):
        # The level above lays data out anew for convolutions; looking for them takes a fifth of the time to build a session.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSED
    )


def _make_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = SILENT
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    _share_working_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _write_model(program: Program, steps: Sequence[Step], known: Environment, inputs: Mapping[str, Any]) -> ModelProto:
    made = {name for step in steps for name in step.outputs}
    read = list(dict.fromkeys([name for step in steps for name in step.uses] + list(program.outputs)))
    opsets: dict[str, int] = {}
    nodes = [_write_node(program, step, opsets) for step in steps]
    given = [name for name in read if name in inputs]
    constants = [name for name in read if name not in made and name not in inputs]
    graph = helper.make_graph(
        nodes,
        "suffix",
        [helper.make_tensor_value_info(name, _find_type(inputs[name]), list(inputs[name].shape)) for name in given],
        [helper.make_empty_tensor_value_info(name) for name in program.outputs],
        [_write_constant(name, known) for name in constants],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=imports)


def _write_node(program: Program, step: Step, opsets: dict[str, int]) -> NodeProto:
    node, opset = program.nodes.get(step.name, (None, 0))
    domain = "" if node is None or node.domain == "ai.onnx" else node.domain
    if node is None or step.operator != (f"{domain}.{node.op_type}" if domain else node.op_type):
        message = f"{step.name} is not the file's own node"
        raise NotPortableError(message)
    if opsets.setdefault(domain, opset) != opset:
        message = f"two opsets of {domain!r}"
        raise NotPortableError(message)
    written = NodeProto(op_type=node.op_type, domain=domain, name=step.name, input=step.inputs, output=step.outputs)
    written.attribute.extend(node.attribute)
    return written


def _find_type(value: Any) -> int:
    if not isinstance(value, Tensor) or value.dtype not in DTYPES or value.device.type != "cpu":
        message = f"{type(value).__name__} cannot be handed over"
        raise NotPortableError(message)
    return int(DTYPES[value.dtype])


def _write_constant(name: str, known: Environment) -> TensorProto:
    value: Any = known.get(name)
    if name.endswith(NUMBERS):
        return numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)
    _find_type(value)
    return numpy_helper.from_array(value.detach().numpy(), name)


def is_portable(program: Program) -> bool:
    """Tell whether the program is an ONNX file's own, in float32, on the CPU, with every input given and nothing dropped."""
    plain = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in program.weights.values())
    return bool(program.nodes) and plain and not program.training and not any(spec.optional for spec in program.inputs)
