"""The operator table: everything in it exists, and nothing in it reaches outside tensors and numbers."""

import torch

from worker.engine.models.aten.allowlist import LOADABLE_ONLY, RANDOM, SHAPE_QUERIES, TENSOR_OPERATORS
from worker.engine.models.aten.builtins import BUILTINS, DTYPES, IN_PLACE_BUILTINS
from worker.engine.models.torchscript.source import DANGEROUS, is_known_operator, is_operator_name


def test_every_operator_exists_in_torch() -> None:
    assert [name for name in sorted(TENSOR_OPERATORS | LOADABLE_ONLY | RANDOM) if not is_operator_name(name)] == []
    assert set(IN_PLACE_BUILTINS) <= set(BUILTINS)
    assert set(BUILTINS) >= SHAPE_QUERIES


def test_no_operator_takes_a_path_or_a_process_group() -> None:
    harmless = {
        "mode",
        "reduce",
        "indexing",
        "equation",
        "padding",
        "approximate",
        "rounding_mode",
        "interpolation",
        "side",
        "ord",
        "norm",
    }
    harmless |= {"pad_mode", "padding_side", "assert_msg", "UPLO", "driver", "p"}
    strings = {
        (schema.name, argument.name)
        for name in TENSOR_OPERATORS | LOADABLE_ONLY
        for schema in torch._C._jit_get_schemas_for_operator(f"aten::{name}")
        for argument in schema.arguments
        if argument.name not in harmless
        and str(argument.type) in {"str", "Optional[str]"}
        # Operators on strings themselves share names with tensor operators: "ab".split("b"), "ab" + "c".
        and str(schema.arguments[0].type) not in {"str", "List[str]", "Dict[str, t]"}
    }
    assert strings == set()


def test_dangerous_names_are_not_known() -> None:
    for name in DANGEROUS:
        assert not is_known_operator("aten", name)
    for namespace in ("quantized", "mine", "c10d", "_c10d_functional", "profiler"):
        assert not is_known_operator(namespace, "add")


def test_dtypes_have_torchscripts_numbers() -> None:
    for code, dtype in DTYPES.items():
        assert torch.ops.aten.empty.memory_format([0], dtype=code).dtype == dtype
