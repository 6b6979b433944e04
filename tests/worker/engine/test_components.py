import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.architectures import ARCHITECTURES
from tests.architectures.convolutional import ChannelNorm
from tests.architectures.exports import export_torchscript
from tests.architectures.language import BertLayer, GPT2Block, LlamaLayer, RMSNorm, T5Layer
from tests.architectures.vision_transformers import SelfAttention, SwinBlock, ViTBlock, WindowAttention
from tests.examples.artifacts import ARTIFACTS
from tests.worker.engine.programs import build_mlp, build_program, make_step
from worker.engine.components import find_components, find_depths, group_by_component, group_by_depth
from worker.engine.models.load import load_program
from worker.engine.models.program import Block, Program, Step

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.ConvTranspose2d: "convolution",
    nn.Linear: "linear",
    nn.Bilinear: "linear",
    nn.Embedding: "embedding",
    nn.LSTM: "recurrent",
    nn.GRU: "recurrent",
    nn.BatchNorm2d: "normalisation",
    nn.LayerNorm: "normalisation",
    nn.GroupNorm: "normalisation",
    nn.InstanceNorm2d: "normalisation",
    ChannelNorm: "normalisation",
    RMSNorm: "normalisation",
}
PARTS = {"query": "attention_query", "key": "attention_key", "value": "attention_value", "out": "attention_output"}
PARTS |= {"qkv": "attention_qkv", "ff": "feed_forward"}
ROLES: dict[type[nn.Module], str] = {
    BertLayer: "query=query key=key value=value output=out intermediate=ff dense=ff",
    GPT2Block: "c_attn=qkv c_proj=out c_fc=ff c_out=ff",
    LlamaLayer: "q_proj=query k_proj=key v_proj=value o_proj=out gate_proj=ff up_proj=ff down_proj=ff",
    T5Layer: "q=query k=key v=value o=out wi_0=ff wi_1=ff wo=ff",
    SelfAttention: "qkv=qkv proj=out",
    WindowAttention: "qkv=qkv proj=out",
    ViTBlock: "mlp.0=ff mlp.2=ff",
    SwinBlock: "mlp.0=ff mlp.2=ff",
    nn.MultiheadAttention: "=qkv out_proj=out",
    nn.TransformerEncoderLayer: "linear1=ff linear2=ff",
}


def list_truth(model: nn.Module) -> dict[str, str]:
    """Return parameter name -> component, from the modules that own the parameters and what our source uses them for."""
    roles = {
        f"{name}.{child}".strip("."): PARTS[part]
        for name, module in model.named_modules()
        for child, part in (entry.split("=") for entry in ROLES.get(type(module), "").split())
    }
    modules = dict(model.named_modules())
    truth: dict[str, str] = {}
    for name, _ in model.named_parameters():
        owner, _, attribute = name.rpartition(".")
        kind = next((kind for module, kind in KINDS.items() if isinstance(modules[owner], module)), "other")
        kind = roles.get(owner, kind)
        is_bias = attribute in {"bias", "in_proj_bias"} and kind not in {"normalisation", "recurrent"}
        truth[name] = "bias" if is_bias else kind
    return truth


def match_by_value(program: Program, model: nn.Module) -> dict[str, set[str]]:
    """Return weight name -> the parameters whose entries (no two are equal) the weight holds."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    values, order = torch.cat([parameter.detach().flatten() for parameter in parameters]).sort()
    owners = torch.cat([torch.full((parameter.numel(),), i) for i, parameter in enumerate(parameters)])[order]
    found: dict[str, set[str]] = {}
    for name, weight in program.weights.items():
        entries = weight.flatten().float()
        places = torch.searchsorted(values, entries).clamp(max=len(values) - 1)
        assert torch.equal(values[places], entries), f"{name} holds numbers that no parameter has"
        found[name] = {names[i] for i in owners[places].unique().tolist()}
    return found


def export(name: str, route: str, folder: Path) -> tuple[Program, nn.Module]:
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    path = folder / name
    if route == "legacy":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = tuple(architecture.make_example().values())
            torch.onnx.export(model, example, str(path), input_names=list(architecture.inputs), dynamo=False, opset_version=17)
    else:
        export_torchscript(architecture, model, path, route)  # type: ignore[arg-type]
    return load_program(path), model


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("resnet18", "script"),
        ("mobilenetv3", "script"),
        ("unet", "trace"),
        ("convnext", "legacy"),
        ("vit", "frozen"),
        ("swin", "legacy"),
        ("gpt2", "trace"),
        ("llama", "script"),
        ("llama", "legacy"),
        ("t5_encoder", "trace"),
        ("transformer_encoder", "script"),
        ("transformer_encoder", "legacy"),
        ("lstm", "trace"),
        ("lstm", "legacy"),
        ("two_in_two_out", "trace"),
    ],
)
def test_every_weight_has_the_component_that_its_module_gives_it(name: str, route: str, tmp_path: Path) -> None:
    program, model = export(name, route, tmp_path)
    truth = list_truth(model)
    expected = {weight: {truth[name] for name in owners} for weight, owners in match_by_value(program, model).items()}
    assert {weight: {component} for weight, component in find_components(program).items()} == expected


def test_both_formats_of_bert_give_components_and_depths(tmp_path: Path) -> None:
    depths: list[dict[str, float]] = []
    for route in ("legacy", "trace"):
        program, model = export("bert", route, tmp_path)
        truth, components = list_truth(model), find_components(program)
        owners = {weight: names.pop() for weight, names in match_by_value(program, model).items()}
        assert components == {weight: truth[owner] for weight, owner in owners.items()}
        depths.append({owners[weight]: depth for weight, depth in find_depths(program).items()})
    assert depths[0] == depths[1]
    # embedding, norm, then per layer: projections, output, norm, expand, contract, norm; then pooler and classifier
    steps = {
        "word_embeddings.weight": 0,
        "norm.bias": 1,
        "layers.0.key.bias": 2,
        "layers.1.norm2.weight": 13,
        "pooler.weight": 14,
    }
    assert {name: depths[0][name] for name in steps} == {name: step / 15 for name, step in steps.items()}
    assert depths[0]["classifier.weight"] == depths[0]["classifier.bias"] == 1.0


CHARACTERS = {
    "positions": "embedding",
    "characters": "embedding",
    "query_key_value": "attention_qkv",
    "out": "attention_output",
    "expand": "feed_forward",
    "contract": "feed_forward",
    "head": "linear",
    "norm": "normalisation",
    "norm1": "normalisation",
    "norm2": "normalisation",
}
"""What each module of the example language model is, by the last part of its name."""


def test_the_shipped_language_model_reads_alike_in_both_formats() -> None:
    found: list[dict[str, tuple[str, float]]] = []
    for suffix in (".pt", ".onnx"):
        program = load_program(ARTIFACTS / f"characters{suffix}")
        components, depths = find_components(program), find_depths(program)
        # The exporter transposes and renames: a weight is known by its sorted entries.
        digests = {
            name: sha256(weight.flatten().sort().values.numpy().tobytes()).hexdigest() for name, weight in program.weights.items()
        }
        found.append({digests[name]: (components[name], depths[name]) for name in program.weights})
        if suffix == ".pt":
            kinds = {
                name: CHARACTERS[name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]] for name in components
            }
            has_bias = {name for name, kind in kinds.items() if name.endswith(".bias") and kind != "normalisation"}
            assert components == {name: "bias" if name in has_bias else kind for name, kind in kinds.items()}
    assert found[0] == found[1]


def build(shapes: Mapping[str, tuple[int, ...]], *calls: str) -> Program:
    """Return a program of calls such as "y = matmul x w": what they compute does not matter here."""
    steps = []
    for call in calls:
        output, operator, *inputs = call.replace("=", " ").split()
        steps.append(make_step(operator, torch.relu, tuple(inputs), output))
    return build_program({name: torch.ones(shape) for name, shape in shapes.items()}, steps, (steps[-1].outputs[0],))


def test_layers_of_a_perceptron_lie_evenly_from_input_to_output() -> None:
    program = build_mlp((3, 5, 4, 2))
    assert find_depths(program) == {f"layer{i}.{part}": i / 2 for i in range(3) for part in ("weight", "bias")}
    assert group_by_component(list(program.weights), find_components(program)) == {
        "linear": ("layer0.weight", "layer1.weight", "layer2.weight"),
        "bias": ("layer0.bias", "layer1.bias", "layer2.bias"),
    }
    assert group_by_depth(list(program.weights), find_depths(program)) == {
        "0.00-0.25": ("layer0.weight", "layer0.bias"),
        "0.50-0.75": ("layer1.weight", "layer1.bias"),
        "0.75-1.00": ("layer2.weight", "layer2.bias"),
    }


def test_depth_is_the_longest_path_and_one_layer_is_at_zero() -> None:
    program = build(
        dict.fromkeys("abcd", (3, 3)), "p = MatMul x a", "q = MatMul p b", "s = MatMul x c", "t = Add q s", "y = MatMul t d"
    )
    assert find_depths(program) == {"a": 0.0, "b": 0.5, "c": 0.0, "d": 1.0}
    assert find_depths(build({"a": (3, 3), "unused": (2,)}, "y = Gemm x a")) == {"a": 0.0, "unused": 0.0}


def test_every_band_edge_belongs_to_the_band_above() -> None:
    depths = {f"w{i}": i / 25 for i in range(26)}
    groups = group_by_depth(list(depths), depths, bands=25)
    assert list(groups.values()) == [*[(f"w{i}",) for i in range(24)], ("w24", "w25")]


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (("e = Gather w x", "t = Transpose w", "y = MatMul e t"), {"w": "embedding"}),  # tied
        (("k = Cast w", "k2 = Mul k b", "y = Conv x k2"), {"w": "convolution", "b": "convolution"}),  # quantised
        (("k = Concat w v", "y = LSTM x k k b"), {"w": "recurrent", "v": "recurrent", "b": "recurrent"}),
        (("p = MatMul x w", "y = Add b p"), {"w": "linear", "b": "bias"}),
        (("p = MatMul x w", "y = Add p v"), {"w": "linear", "v": "other"}),  # a table of positions, not a bias
        (("p = MatMul x w", "r = Relu p", "y = Add r b"), {"w": "linear", "b": "other"}),
        (("y = Mul x b",), {"b": "other"}),
        (("n = LayerNormalization x", "g = Mul n b", "y = Add g c"), {"b": "normalisation", "c": "normalisation"}),
        (("p = aten::addmm b x w", "y = aten::softmax p"), {"w": "linear", "b": "bias"}),
        (("y = MatMul x w",), {"w": "linear", "unused": "other"}),
    ],
)
def test_operators_that_read_a_weight_say_what_it_is(calls: tuple[str, ...], expected: dict[str, str]) -> None:
    shapes: dict[str, tuple[int, ...]] = {"w": (4, 3), "v": (4, 3), "b": (3,), "c": (3,), "unused": (2, 2)}
    program = build({name: shapes[name] for name in expected}, *calls)
    assert find_components(program) == expected


ATTENTION = ("s = MatMul q k", "m = Div s x", "a = Softmax m", "z = MatMul a v", "r = Reshape z", "o = MatMul r wo")


@pytest.mark.parametrize(
    ("projections", "expected"),
    [
        (("q = MatMul x wq", "k = MatMul x wk", "v = MatMul x wv"), ["query", "key", "value", "output"]),
        (("q = MatMul x wq", "b = MatMul x wk", "k = Slice b", "v = Slice b"), ["query", "qkv", None, "output"]),
        (("q = MatMul x wq", "k = MatMul x wk", "v = Identity x"), ["query", "key", None, "output"]),
        (("q = MatMul x wo", "k = MatMul x wk", "v = MatMul x wv"), [None, "key", "value", None]),  # one weight, two parts
    ],
)
def test_projections_of_attention_are_told_by_what_they_feed(projections: tuple[str, ...], expected: list[str | None]) -> None:
    names = ("wq", "wk", "wv", "wo")
    program = build(dict.fromkeys(names, (3, 3)), *projections, *ATTENTION)
    used = {name for step in program.steps for name in step.inputs}
    truth = {
        n: f"attention_{part}" if part else "linear" if n in used else "other" for n, part in zip(names, expected, strict=True)
    }
    assert find_components(program) == truth


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (
            ("a = com.microsoft.Attention x joint b", "y = MatMul a out"),
            {"joint": "attention_qkv", "b": "bias", "out": "attention_output"},
        ),
        (
            (
                "p = MatMul x one",
                "q = MatMul x two",
                "r = MatMul x three",
                "a = com.microsoft.MultiHeadAttention p q r b",
                "y = MatMul a out",
            ),
            {
                "one": "attention_query",
                "two": "attention_key",
                "three": "attention_value",
                "b": "bias",
                "out": "attention_output",
            },
        ),
        (
            ("p = linear probe one", "q = linear x two", "a = scaled_dot_product_attention p q x", "y = Add a x"),
            {"probe": "other", "one": "attention_query", "two": "attention_key"},  # a learned query; no output projection
        ),
        (
            # attention and feed-forward side by side: x + attention(n) + feed_forward(n)
            (
                *(
                    "n = LayerNormalization x g",
                    "p = MatMul n joint",
                    "a = scaled_dot_product_attention p p p",
                    "o = MatMul a out",
                ),
                *("u = MatMul n up", "v = Gelu u", "d = MatMul v down", "s = Add o d", "y = Add s x"),
            ),
            {
                "g": "normalisation",
                "joint": "attention_qkv",
                "out": "attention_output",
                "up": "feed_forward",
                "down": "feed_forward",
            },
        ),
        (
            # residual sums inside ONNX Runtime's fused normalisation, bias inside its fused activation
            (
                *("p = MatMul x joint", "a = Attention p p p", "o = MatMul a out"),
                *("n = com.microsoft.SkipLayerNormalization x o g h", "u = MatMul n up", "v = com.microsoft.BiasGelu u b"),
                *("d = MatMul v down", "y = com.microsoft.SkipLayerNormalization n d g h c"),
            ),
            {"joint": "attention_qkv", "out": "attention_output", "g": "normalisation", "h": "normalisation"}
            | {"up": "feed_forward", "b": "bias", "down": "feed_forward", "c": "bias"},
        ),
    ],
)
def test_fused_and_parallel_blocks_are_read_like_plain_ones(calls: tuple[str, ...], expected: dict[str, str]) -> None:
    program = build({name: (3,) if len(name) == 1 else (3, 3) for name in expected}, *calls)
    assert find_components(program) == expected


FEED_FORWARD = ("u = MatMul y up", "g = Gelu u", "d = MatMul g down")


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (("i = Identity x", *ATTENTION, "y = Add o x", *FEED_FORWARD, "out = Add d y"), "feed_forward"),
        (("i = Identity x", *ATTENTION, "y = LayerNormalization o", *FEED_FORWARD), "linear"),  # no residual
        (("y = Identity x", *FEED_FORWARD, "out = Add d y"), "linear"),  # no attention
    ],
)
def test_feed_forward_needs_a_residual_block_and_attention(calls: tuple[str, ...], expected: str) -> None:
    projections = ("q = MatMul x wq", "k = MatMul x wq", "v = MatMul x wq")
    program = build({"wq": (3, 3), "wo": (3, 3), "up": (3, 3), "down": (3, 3)}, *projections, *calls)
    components = find_components(program)
    assert (components["up"], components["down"]) == (expected, expected)


def test_a_softmax_over_a_linear_gate_is_no_attention() -> None:
    program = build({"w": (3, 3), "u": (3, 3)}, "g = MatMul x w", "a = Softmax g", "z = MatMul a x", "y = MatMul z u")
    assert find_components(program) == {"w": "linear", "u": "linear"}


def test_weights_inside_branches_are_followed_through_them() -> None:
    inner = make_step("aten::conv2d", torch.relu, ("x", "kernel"), "inside")
    blocks = (Block((), (inner,), ("inside",)), Block((), (), ("x",)))
    branch = Step("if", "prim::If", torch.relu, ("x",), ("joined",), blocks=blocks)
    shapes = {"kernel": torch.ones(2, 1, 3, 3), "shift": torch.ones(2), "head": torch.ones(2, 2)}
    steps = [
        branch,
        make_step("Add", torch.relu, ("joined", "shift"), "sum"),
        make_step("Gemm", torch.relu, ("sum", "head"), "y"),
    ]
    program = build_program(shapes, steps, ("y",))
    assert find_components(program) == {"kernel": "convolution", "shift": "bias", "head": "linear"}
    assert find_depths(program) == {"kernel": 0.0, "shift": 0.0, "head": 1.0}


def test_an_omitted_input_is_not_the_last_omitted_output() -> None:
    recurrent = Step("rnn", "RNN", torch.relu, ("x", "r"), ("h", ""))
    clipped = make_step("Clip", torch.relu, ("w", "", ""), "c")
    steps = [recurrent, clipped, make_step("MatMul", torch.relu, ("h", "c"), "y")]
    program = build_program({"r": torch.ones(2, 2), "w": torch.ones(2, 2)}, steps, ("y",))
    assert find_components(program) == {"r": "recurrent", "w": "linear"}


def test_the_body_of_a_loop_reads_what_the_loop_carries() -> None:
    body = Block(
        ("turn", "state"),
        (make_step("aten::linear", torch.relu, ("state", "w"), "p"), make_step("aten::add", torch.relu, ("p", "b"), "next")),
        ("go", "next"),
    )
    loop = Step("loop", "prim::Loop", torch.relu, ("turns", "go", "x"), ("last",), blocks=(body,))
    steps = [loop, make_step("Gemm", torch.relu, ("last", "head"), "y")]
    program = build_program({"w": torch.ones(2, 2), "b": torch.ones(2), "head": torch.ones(2, 2)}, steps, ("y",))
    assert find_components(program) == {"w": "linear", "b": "bias", "head": "linear"}
    assert find_depths(program) == {"w": 0.0, "b": 0.0, "head": 1.0}
