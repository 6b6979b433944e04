"""Graphs and tables of tensors that torch.export does not write: refused by type, and nothing happens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import DataMismatch, ModelRefused, ModelUnreadable, ParityError, UnsupportedOperator
from tests.worker.engine.models.pt2.tampering import CODE, Document, assign, change_json, check_refused, graph, node, signature
from tests.worker.engine.models.torchscript.archives import Entries, write_entries
from worker.engine.models.load import measure_parity
from worker.engine.models.pt2 import load_pt2

TARGETS = [
    "os.system",
    "torch.save",
    "builtins.eval",
    "_operator.attrgetter",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.set_.source_Storage",
    "torch.ops.aten.resize_.default",
    "torch.ops.aten.relu.no_such_overload",
    "torch.ops.aten.relu.default.__call__",
    "torch.ops.higher_order.run_and_save_rng_state",
    "torch.ops.mine.relu.default",
    "#extension:relu",
]


@pytest.mark.parametrize("target", TARGETS)
def test_targets_outside_the_table_are_named_and_not_looked_up(target: str, entries: Entries, folder: Path) -> None:
    def change(document: Document) -> None:
        node(document, "relu")["target"] = target

    error = check_refused(write_entries(folder / "model.pt2", change_json(entries, "model.json", change)), UnsupportedOperator)
    assert [fault.where for fault in error.faults] == [target]


def _in_values(text: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        graph(document)["tensor_values"]["relu"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def _in_symbols(document: Document) -> None:
    graph(document)["sym_int_values"]["n"] = {"as_expr": {"expr_str": CODE, "hint": None}}


EXPRESSIONS: dict[str, Callable[[Document], None]] = {
    "a call": _in_values(CODE),
    "a call beside a symbol": _in_values(f"Add(Symbol('s0'), {CODE})"),
    "an attribute": _in_values("Symbol('s0').__class__"),
    "a lambda": _in_values("(lambda: 0)()"),
    "an unknown function": _in_values("sympify('s0')"),
    "a subscript": _in_values("Symbol('s0')[0]"),
    "a text with code": _in_values(f'Symbol("{CODE}")'),
    "a long text": _in_values("Symbol('s0'" + ")" * 100_000),
    "a symbol's value": _in_symbols,
}


@pytest.mark.parametrize("change", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_shape_expressions_that_are_code_are_refused(change: Callable[[Document], None], entries: Entries, folder: Path) -> None:
    error = check_refused(write_entries(folder / "model.pt2", change_json(entries, "model.json", change)), ModelRefused)
    assert error.faults[0].what == "a shape expression holds more than arithmetic on sizes"


def _reorder(document: Document) -> None:
    graph(document)["nodes"].reverse()


def _read_itself(document: Document) -> None:
    node(document, "relu")["inputs"][0]["arg"] = {"as_tensor": {"name": "relu"}}


def _add_argument(document: Document) -> None:
    node(document, "relu")["inputs"].append({"name": "path", "arg": {"as_string": "written"}, "kind": 2})


def _argument_twice(document: Document) -> None:
    node(document, "relu")["inputs"] *= 2


def _nest_graphs(document: Document) -> None:
    inner: Document = {"inputs": [], "outputs": [], "nodes": [], "tensor_values": {}}
    for _ in range(50):
        branch = {"name": "", "kind": 1, "arg": {"as_graph": {"name": "g", "graph": inner}}}
        inner = {**inner, "nodes": [{"target": "torch.ops.higher_order.cond", "inputs": [branch], "outputs": []}]}
    graph(document)["nodes"].append(inner["nodes"][0])


def _nest_outputs(document: Document) -> None:
    spec: Any = {"type": None, "context": None, "children_spec": []}
    for _ in range(100):
        spec = {"type": "builtins.tuple", "context": "null", "children_spec": [spec]}
    document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, spec])


def _out_spec(text: str) -> Callable[[Document], None]:
    return assign(lambda document: document["graph_module"]["module_call_graph"][0]["signature"], "out_spec", text)


RELU = "torch.ops.aten.relu"
GRAPHS: dict[str, Callable[[Document], None]] = {
    "nodes in the wrong order": _reorder,
    "a node that reads itself": _read_itself,
    "two values of one name": assign(lambda d: node(d, "relu"), "outputs", [{"as_tensor": {"name": "linear"}}]),
    "a value with the name of an input": assign(lambda d: node(d, "relu"), "outputs", [{"as_tensor": {"name": "x"}}]),
    "an argument that the operator lacks": _add_argument,
    "an argument twice": _argument_twice,
    "no arguments": assign(lambda d: node(d, "relu"), "inputs", []),
    "arguments that are no list": assign(lambda d: node(d, "relu"), "inputs", {"self": 1}),
    "a union of two": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_int": 1, "as_bool": True}),
    "a union of none": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {}),
    "an unknown kind of argument": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_code": CODE}),
    "a number that is a text": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_int": "1"}),
    "a number that is true": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_int": True}),
    "a number of too many bits": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_int": 2**70}),
    "a custom object": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_custom_obj": {"name": "o", "class_fqn": "C"}}),
    "an operator as an argument": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_operator": "os.system"}),
    "a dtype that there is not": assign(lambda d: node(d, "relu")["inputs"][0], "arg", {"as_scalar_type": 99}),
    "more results than the operator has": assign(
        lambda d: node(d, "relu"), "outputs", [{"as_tensor": {"name": "a"}}, {"as_tensor": {"name": "b"}}]
    ),
    "a target that is no text": assign(lambda d: node(d, "relu"), "target", ["os", "system"]),
    "a target with control characters": assign(lambda d: node(d, "relu"), "target", "torch\x1b[2J"),
    "nodes that are no list": assign(graph, "nodes", "none"),
    "graphs fifty levels deep": _nest_graphs,
    "outputs a hundred levels deep": _nest_outputs,
    "outputs of another number": _out_spec('[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'),
    "outputs of another version": _out_spec('[2, {"type": null, "context": null, "children_spec": []}]'),
    "outputs that are no JSON": _out_spec(CODE),
    "an output that nothing makes": assign(
        lambda d: signature(d)["output_specs"][0]["user_output"], "arg", {"as_tensor": {"name": "z"}}
    ),
    "a signature without the inputs": assign(signature, "input_specs", []),
    "a parameter that is not stored": assign(
        lambda d: signature(d)["input_specs"][0]["parameter"], "parameter_name", "../secret"
    ),
    "a script object as an input": assign(
        lambda d: signature(d)["input_specs"],
        0,
        {"custom_obj": {"arg": {"name": "p_fc_weight", "class_fqn": "C"}, "custom_obj_name": "o"}},
    ),
    "a backward graph": assign(
        lambda d: signature(d)["output_specs"],
        0,
        {"gradient_to_parameter": {"arg": {"name": "add"}, "parameter_name": "fc.weight"}},
    ),
    "another schema": assign(lambda d: d["schema_version"], "major", 9),
    "no schema": assign(lambda d: d, "schema_version", None),
    "no graph": assign(lambda d: d, "graph_module", []),
}


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS.keys())
def test_graphs_that_torch_export_does_not_write_are_refused(
    change: Callable[[Document], None], entries: Entries, folder: Path
) -> None:
    changed = change_json(entries, "model.json", change)
    check_refused(write_entries(folder / "model.pt2", changed), ModelRefused, ModelUnreadable, UnsupportedOperator)


def _weight(document: Document) -> Document:
    found: Document = document["config"]["fc.weight"]
    return found


def _meta(document: Document) -> Document:
    found: Document = _weight(document)["tensor_meta"]
    return found


PAYLOADS: dict[str, Callable[[Document], None]] = {
    "more rows than bytes": assign(lambda d: _meta(d)["sizes"], 0, {"as_int": 2**40}),
    "strides outside the bytes": assign(lambda d: _meta(d)["strides"], 0, {"as_int": 7}),
    "an offset outside the bytes": assign(_meta, "storage_offset", {"as_int": 1}),
    "a negative size": assign(lambda d: _meta(d)["sizes"], 0, {"as_int": -2}),
    "a negative stride": assign(lambda d: _meta(d)["strides"], 0, {"as_int": -1}),
    "a negative offset": assign(_meta, "storage_offset", {"as_int": -1}),
    "a size that is an expression": assign(lambda d: _meta(d)["sizes"], 0, {"as_expr": {"expr_str": "Symbol('s0')"}}),
    "a stride of zero": lambda d: _meta(d).update(sizes=[{"as_int": 9}] * 2, strides=[{"as_int": 0}] * 2),
    "fewer strides than sizes": assign(_meta, "strides", [{"as_int": 1}]),
    "a thousand dimensions": assign(_meta, "sizes", [{"as_int": 1}] * 1000),
    "a dtype wider than its bytes": assign(_meta, "dtype", 8),
    "an unknown dtype": assign(_meta, "dtype", 29),
    "a sparse layout": assign(_meta, "layout", 1),
    "a pickle": assign(_weight, "use_pickle", True),
    "no description": assign(_weight, "tensor_meta", None),
    "bytes in another folder": assign(_weight, "path_name", "../sample_inputs/model.pt"),
    "bytes that are missing": assign(_weight, "path_name", "weight_99"),
    "a path that is no text": assign(_weight, "path_name", None),
    "a weight that is missing": lambda d: d["config"].pop("fc.weight"),
    "a table that is a list": assign(lambda d: d, "config", []),
}


@pytest.mark.parametrize("change", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_tensors_that_are_not_what_their_bytes_hold_are_refused(
    change: Callable[[Document], None], entries: Entries, folder: Path
) -> None:
    changed = change_json(entries, "model_weights_config.json", change)
    check_refused(write_entries(folder / "model.pt2", changed), ModelRefused, ModelUnreadable)


DECLARED: dict[str, Callable[[Document], None]] = {
    "another dtype": lambda d: graph(d)["tensor_values"]["relu"].update(dtype=8),
    "another size": lambda d: graph(d)["tensor_values"]["relu"]["sizes"].__setitem__(1, {"as_int": 3}),
    "fewer dimensions": lambda d: graph(d)["tensor_values"]["relu"].update(sizes=[{"as_int": 8}]),
    "two sizes that are not equal": lambda d: graph(d)["tensor_values"]["add"].update(
        sizes=[graph(d)["tensor_values"]["x"]["sizes"][0]] * 2
    ),
    "another weight": lambda d: graph(d)["tensor_values"]["p_fc_weight"]["sizes"].reverse(),
}


@pytest.mark.parametrize("change", DECLARED.values(), ids=DECLARED.keys())
def test_tensors_that_are_not_what_the_file_declares_are_refused(
    change: Callable[[Document], None], entries: Entries, folder: Path
) -> None:
    path = write_entries(folder / "model.pt2", change_json(entries, "model.json", change))
    with pytest.raises(DataMismatch, match="is not what the file declares"):
        measure_parity(path, load_pt2(path), {"x": torch.ones(4, 3)}, threads=1)


def test_parity_sees_a_program_that_is_not_the_files(entries: Entries, folder: Path) -> None:
    path = write_entries(folder / "model.pt2", entries)

    def change(document: Document) -> None:
        node(document, "relu")["target"] = "torch.ops.aten.tanh.default"

    other = write_entries(folder / "other.pt2", change_json(entries, "model.json", change))
    x = torch.linspace(-2, 2, 12).reshape(4, 3)
    assert measure_parity(path, load_pt2(path), {"x": x}, threads=1) == 0.0
    with pytest.raises(ParityError):
        measure_parity(path, load_pt2(other), {"x": x}, threads=1)
