"""What each weight is for (its component) and how deep it lies: from operators and dataflow, never from names."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.engine.models.program import OMITTED, Program, Step

COMPONENTS = tuple(
    re.findall(
        r"\w+",
        "embedding recurrent convolution attention_query attention_key attention_value attention_qkv attention_output "
        "feed_forward linear normalisation bias running_statistics other",
    )
)
"""In order of precedence: a weight with several roles (a tied embedding) has the first of them."""

# Operators by their kind: Conv and aten::_convolution both match "conv".
CONVOLUTION, RECURRENT = re.compile("conv(?!ert)"), re.compile("lstm|gru|rnn")
NORM = re.compile("(batch|layer|group|instance|rms)_?norm")
FUSED = re.compile("scaled_dot_product|attention$|encoder_layer")
WITH_PROJECTIONS = re.compile("native|encoder_layer")
PRODUCT = re.compile(
    "(linear(classifier|regressor)?|bilinear|(fused|transpose)?(matmul|gemm)|mm|bmm|mv|addm[mv]|b?addbmm|einsum|tensordot)$"
)
ACTIVATION = re.compile(
    "((leaky_?|p|fast|bias|quick|thresholded)?(relu6?|gelu)|s?elu|celu|silu|(hard)?(swish|sigmoid|tanh)|erf|soft(plus|sign)|mish|"
    "(swi)?glu)$"
)
LAYOUT = re.compile(
    "(.*reshape|.*view|transpose|permute|t|(un)?(flatten|squeeze)|cast.*|to|type_as|float|half|contiguous|clone|detach|identity|"
    "alias|.*dropout|expand|slice|select|clip|clamp.*|max(imum)?)$"
)
SUM = re.compile("(add|sum|sub|skip.*normalization)$")
SLOTS: dict[str, dict[int, str]] = {
    "attention": {1: "attention_qkv", 2: "bias"},
    "multiheadattention": {3: "bias"},
    "embedlayernormalization": {**dict.fromkeys((2, 3, 4), "embedding"), **dict.fromkeys((5, 6), "normalisation")},
    "skiplayernormalization": {2: "normalisation", 3: "normalisation", 4: "bias"},
    "skipsimplifiedlayernormalization": {2: "normalisation", 3: "bias"},
    "moe": {2: "feed_forward", 3: "bias", 4: "feed_forward", 5: "bias"},
}
"""Fused operators: what they read where."""
ENCODER_LAYER = ("attention_qkv", "bias", "attention_output", "bias", *["normalisation"] * 4, *["feed_forward", "bias"] * 2)
"""Roles of the weights of PyTorch's fused encoder layer, in order; its fused attention has the first four."""


class _Node(NamedTuple):
    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Use(NamedTuple):
    role: str
    weights: frozenset[str]
    level: int


class _Graph:
    """The program's dataflow, blocks unfolded once. An activation is a value that depends on data or left a layer.

    sources: value -> the weights that a value which is no activation is computed from. tags: what an activation is so far.
    levels: weight-bearing steps before an activation. opaque: nodes where a search for the nearest layer ends.
    """

    def __init__(self, program: Program) -> None:
        self._weights = program.weights
        self._elements: dict[int, tuple[int, ...]] = {}
        self._count = 0
        self.nodes: list[_Node] = []
        self.uses: list[_Use] = []
        self.makers: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        self.levels: dict[int, int] = {}
        self.tags: dict[int, str] = {}
        self.linears: dict[int, frozenset[str]] = {}
        self.opaque: set[int] = set()
        names = {name: self._make() for name in (*program.constants, *program.weights, *(spec.name for spec in program.inputs))}
        self.sources = {names[name]: frozenset({name}) for name in program.weights}
        self.levels |= {names[spec.name]: 0 for spec in program.inputs}
        self._read(program.steps, names)

    def _make(self) -> int:
        self._count += 1
        return self._count

    def _read(self, steps: Sequence[Step], names: dict[str, int]) -> None:
        for step in steps:
            given = [names.setdefault(name, self._make()) for name in step.operands]
            outputs = tuple(self._make() for _ in step.outputs)
            operator = step.plain_kind
            if step.blocks:
                results = [self._read_block(step, k, given, names) for k in range(len(step.blocks))]
                for back, output in enumerate(reversed(outputs), 1):
                    self._add("identity", tuple(result[-back] for result in results if len(result) >= back), (output,))
            elif operator.endswith("unpack") and len(self._elements.get(given[0], ())) == len(outputs):
                outputs = self._elements[given[0]]
            else:
                inputs = tuple(part for value in given for part in self._elements.get(value, (value,)))
                if operator in {"listconstruct", "tupleconstruct"}:
                    self._elements[outputs[0]] = inputs
                # Of a step that rounds to a grid, its scale and zero point have no gradient.
                self._add(operator, inputs, outputs[:1] if operator == "identity" else outputs, is_shape=step.shape_only)
            names.update(zip(step.outputs, outputs, strict=True))
            names.pop(OMITTED, None)

    def _read_block(self, step: Step, k: int, given: list[int], names: dict[str, int]) -> list[int]:
        block, inner = step.blocks[k], dict(names)
        inner |= {name: self._make() for name in block.inputs}
        # A loop's carried values are the last ones on both sides: (count, condition, carried...) in ONNX and TorchScript.
        inner |= dict(zip(reversed(block.inputs), reversed(given), strict=False))
        self._read(block.steps, inner)
        return [inner.setdefault(name, self._make()) for name in block.outputs]

    def _add(self, operator: str, inputs: tuple[int, ...], outputs: tuple[int, ...], *, is_shape: bool = False) -> None:
        node, index = _Node(operator, inputs, outputs), len(self.nodes)
        self.nodes.append(node)
        self.makers |= dict.fromkeys(outputs, index)
        for value in inputs:
            self.readers.setdefault(value, []).append(index)
        if is_shape:
            return
        active = self.active(inputs)
        roles = self._find_roles(index, node, active)
        if not active and not roles:
            known = frozenset[str]().union(*(self.sources.get(value, ()) for value in inputs))
            self.sources |= dict.fromkeys(outputs, known)
            return
        level = max((self.levels[value] for value in active), default=0)
        # What is added to a layer's result belongs to that layer's step.
        joins = SUM.match(operator) or ACTIVATION.match(operator)
        attached = bool(joins) and level > 0 and len(active) == 1 and not {"other"}.issuperset(roles.values())
        self.uses += [_Use(role, self.sources[value], level - attached) for value, role in roles.items()]
        self.levels |= dict.fromkeys(outputs, level + (bool(roles) and not attached))
        self.tags |= dict.fromkeys(outputs, self._find_tag(node, active, set(roles.values())))

    def _find_roles(self, index: int, node: _Node, active: list[int]) -> dict[int, str]:
        """Return the role of each input computed from weights; nothing where the node makes one such value of others."""
        operator, held = node.operator, [value for value in node.inputs if self.sources.get(value)]
        slots = {value: slot for slot, value in reversed(list(enumerate(node.inputs)))}
        is_layer, named = True, dict[int, str]()
        if CONVOLUTION.search(operator):
            named = {value: {0: "other", 1: "convolution"}.get(slots[value], "bias") for value in held}
        elif RECURRENT.match(operator):
            named = dict.fromkeys(held, "recurrent")
        elif WITH_PROJECTIONS.search(operator) and FUSED.search(operator):
            named = dict(zip(held, ENCODER_LAYER, strict=False))
        elif operator in SLOTS:
            is_layer = "skip" not in operator
            named = {value: SLOTS[operator].get(slots[value], "other") for value in held}
        elif FUSED.search(operator):
            named = dict.fromkeys(held, "other")
        elif PRODUCT.match(operator) and (active or "linear" in operator):
            bias = 0 if "add" in operator else {"bilinear": 3, "einsum": None}.get(operator, 2)
            named = {value: "bias" if slots[value] == bias else "linear" for value in held if active or slots[value] > 0}
            factors = [self.sources[value] for value, role in named.items() if role == "linear"]
            self.linears |= {index: frozenset[str]().union(*factors)} if factors else {}
        elif held and self._is_lookup(node, active):
            named = {node.inputs[0]: "embedding"}
        else:
            is_layer = operator == "softmax"
            if NORM.search(operator):
                named = dict.fromkeys(held, "normalisation")
            elif active and operator not in {"listconstruct", "tupleconstruct"}:
                named = {value: self._name_elementwise(operator, self.tags.get(active[0], ""), value) for value in held}
        self.opaque |= {index} if is_layer else set()
        return named

    def _is_lookup(self, node: _Node, active: list[int]) -> bool:
        # Fixed rows of a weight are a part of it; rows found from the data, or from its length, are looked up.
        is_found = not self.makers.keys().isdisjoint(node.inputs[1:]) and node.operator != "index"
        is_rows = node.operator in {"gather", "index_select", "index"} and (bool(active) or is_found)
        return bool(self.sources.get(node.inputs[0])) and (is_rows or node.operator.startswith("embedding"))

    def _name_elementwise(self, operator: str, tag: str, value: int) -> str:
        wide = any(sum(size > 1 for size in self._weights[name].shape) > 1 for name in self.sources[value])
        if tag == "embedded" and operator == "add":
            return "embedding"
        if tag == "product" and operator in {"add", "sub", "biasgelu", "fastgelu"} and not wide:
            return "bias"
        return "normalisation" if tag == "normalised" and operator in {"add", "sub", "mul", "div"} and not wide else "other"

    def _find_tag(self, node: _Node, active: list[int], roles: set[str]) -> str:
        operator, tags = node.operator, [self.tags.get(value, "") for value in active]
        scales, first = operator in {"mul", "div"}, "".join(tags[:1])
        powers = re.match("sqrt|rsqrt|reciprocal|pow", operator) and first in {"statistic", "root"}
        rules = {
            "product": PRODUCT.match(operator) or CONVOLUTION.search(operator),
            "embedded": "embedding" in roles or (operator == "add" and set(tags) == {"embedded"}),
            "normalised": NORM.search(operator)
            or (scales and (roles == {"normalisation"} or (len(tags) > 1 and "root" in tags))),
            "root": powers or (scales and tags == ["root"]) or re.match("(linalg_.*|norm|std|reducel2)$", operator),
            "statistic": re.match(".*mean|var|reducesumsquare", operator) or (operator == "add" and set(tags) == {"statistic"}),
        }
        is_kept = LAYOUT.match(operator) or (scales and tags == ["product"] and not roles)  # by a constant: read off a grid
        return next((tag for tag, holds in rules.items() if holds), first if is_kept else "")

    def active(self, values: Iterable[int]) -> list[int]:
        """Return the activations among the values."""
        return [value for value in values if value in self.levels]

    def find_origins(self, value: int, passes: Callable[[int], bool]) -> set[int]:
        """Return the activations that `value` is computed from, itself included; only back through the nodes that pass."""

        def go_back(to: int) -> list[int]:
            index = self.makers.get(to)
            return self.active(self.nodes[index].inputs) if index is not None and passes(index) else []

        return _spread(value, go_back)

    def find_nearest(self, value: int, *, curved: bool = True) -> tuple[set[int], bool]:
        """Return the opaque nodes behind `value` with none between, and whether an activation function lies between.

        Without `curved`, paths by activation functions and by sine and cosine (rotary positions) are not followed.
        """

        def passes(index: int) -> bool:
            operator = self.nodes[index].operator
            return index not in self.opaque and (curved or not (ACTIVATION.match(operator) or operator in {"sin", "cos"}))

        makers = {self.makers[origin] for origin in self.find_origins(value, passes) if origin in self.makers}
        return makers & self.opaque, any(ACTIVATION.match(self.nodes[index].operator) for index in makers - self.opaque)

    def find_next(self, value: int) -> list[tuple[int, int]]:
        """Return (node, value read) where `value` first reaches an opaque node, a sum or an activation function."""

        def stops(index: int) -> bool:
            return index in self.opaque or self.is_sum(index) or bool(ACTIVATION.match(self.nodes[index].operator))

        def go_on(to: int) -> list[int]:
            passed = [self.nodes[index].outputs for index in self.readers.get(to, ()) if not stops(index)]
            return self.active(output for outputs in passed for output in outputs)

        reached = sorted(_spread(value, go_on))
        return [(index, read) for read in reached for index in self.readers.get(read, ()) if stops(index)]

    def is_sum(self, index: int) -> bool:
        """Tell whether the node adds activations."""
        return bool(SUM.match(self.nodes[index].operator)) and len(self.active(self.nodes[index].inputs)) > 1

    def find_sides(self, index: int) -> list[int]:
        """Return the two activations that a product of activations multiplies; nothing for any other node."""
        node = self.nodes[index]
        sides = self.active(node.inputs["add" in node.operator :])
        return sides if PRODUCT.match(node.operator) and index not in self.linears and len(sides) == 2 else []

    def pick_linear(self, indices: Iterable[int]) -> list[frozenset[str]]:
        """Return the one linear's weights among the nodes, in a list; nothing where there are several or none."""
        found = {self.linears[index] for index in indices if index in self.linears}
        return list(found) if len(found) == 1 else []


def _spread(value: int, follow: Callable[[int], list[int]]) -> set[int]:
    seen, waiting = {value}, [value]
    while waiting:
        fresh = set(follow(waiting.pop())) - seen
        seen |= fresh
        waiting += fresh
    return seen


def _find_attention(graph: _Graph) -> list[tuple[list[int], int | None]]:
    """Return ([query, key, value], output) of every attention: fused, or product -> softmax -> product."""
    found: list[tuple[list[int], int | None]] = []
    for node in graph.nodes:
        fed = graph.active(node.inputs)[:3]
        if WITH_PROJECTIONS.search(node.operator) and FUSED.search(node.operator):
            found.append(([], None))
        elif FUSED.search(node.operator):
            is_packed = len(fed) < 3 or any(graph.sources.get(value) for value in node.inputs[1:3])
            found.append((fed[:1] * 3 if is_packed else fed, node.outputs[0]))
        elif node.operator == "softmax" and fed:
            scores = [sides for index in graph.find_nearest(fed[0])[0] if (sides := graph.find_sides(index))]
            mixes = [(index, read) for index, read in graph.find_next(node.outputs[0]) if graph.find_sides(index)]
            if len(scores) == 1 and len(mixes) == 1:
                values = [value for value in graph.find_sides(mixes[0][0]) if value != mixes[0][1]]
                found.append((scores[0] + values, graph.nodes[mixes[0][0]].outputs[0]))
    return found


def _label_attention(graph: _Graph, found: list[tuple[list[int], int | None]]) -> dict[frozenset[str], str]:
    parts: dict[frozenset[str], set[str]] = {}
    for sides, output in found:
        for value, part in zip(sides, ("attention_query", "attention_key", "attention_value"), strict=False):
            for weights in graph.pick_linear(graph.find_nearest(value, curved=False)[0]):
                parts.setdefault(weights, set()).add(part)
        for weights in graph.pick_linear(index for index, _ in graph.find_next(output)) if output is not None else ():
            parts.setdefault(weights, set()).add("attention_output")
    several = {True: "linear", False: "attention_qkv"}
    return {w: min(held) if len(held) == 1 else several["attention_output" in held] for w, held in parts.items()}


def _find_feed_forward(graph: _Graph, attention: Mapping[frozenset[str], str]) -> dict[frozenset[str], str]:
    """Return the linears of x + down(f(up(x))) and x + down(f(gate(x)) * up(x)), x perhaps normalised."""
    found: dict[frozenset[str], str] = {}
    for index, weights in graph.linears.items():
        inputs = graph.active(graph.nodes[index].inputs)
        nearest, is_curved = graph.find_nearest(inputs[0]) if inputs else (set[int](), False)
        before = {graph.linears.get(i, frozenset()) for i in nearest}
        if is_curved and 1 <= len(before) <= 2 and frozenset() not in before and attention.keys().isdisjoint({weights, *before}):
            starts = {value for i in nearest for value in graph.active(graph.nodes[i].inputs)}
            origins = [graph.find_origins(value, lambda _: True) for value in starts]
            if origins and _rejoins(graph, graph.nodes[index].outputs[0], set.intersection(*origins), depth=2):
                found |= dict.fromkeys((weights, *before), "feed_forward")
    return found


def _rejoins(graph: _Graph, value: int, origins: set[int], depth: int) -> bool:
    """Tell whether `value` is added to what the block read, at the first or second sum; terms of a sum count one by one."""
    for index, read in graph.find_next(value) if depth else ():
        if graph.is_sum(index):
            others = set(graph.active(graph.nodes[index].inputs)) - {read}
            sums = {graph.makers[other] for other in others if other in graph.makers and graph.is_sum(graph.makers[other])}
            others.update(*(graph.nodes[i].inputs for i in sums))
            if not origins.isdisjoint(others) or _rejoins(graph, graph.nodes[index].outputs[0], origins, depth - 1):
                return True
    return False


def find_components(program: Program) -> dict[str, str]:
    """Return the component of every weight: the first of COMPONENTS that one of its uses has; `other` where none is sure."""
    graph = _Graph(program)
    found = _find_attention(graph)
    labels = _label_attention(graph, found)
    labels |= _find_feed_forward(graph, labels) if found else {}
    linears = {name: label for weights, label in labels.items() for name in weights}
    roles: dict[str, set[str]] = {name: {"other"} for name in program.weights}
    for use in graph.uses:
        for name in use.weights:
            roles[name].add(linears.get(name, "linear") if use.role == "linear" else use.role)
    roles |= {name: {"running_statistics"} for name in program.statistics}
    return {name: min(held, key=COMPONENTS.index) for name, held in roles.items()}


def find_depths(program: Program) -> dict[str, float]:
    """Return the position of every weight in [0, 1]: 0 where the first layer uses it, 1 where the last one does.

    Returns:
        d / D by weight name. d is the largest number of weight-bearing steps on a path from an input to the first step
        that uses the weight (a bias belongs to its layer's step); D the largest d. Weights that no step uses: 0.
    """
    levels: dict[str, int] = {}
    for use in _Graph(program).uses:
        levels |= {name: min(use.level, levels.get(name, use.level)) for name in use.weights}
    last = max(levels.values(), default=0) or 1
    return {name: levels.get(name, 0) / last for name in program.weights}


def group_by_component(names: Sequence[str], components: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return component -> the names that have it, in the order of COMPONENTS; empty ones are left out."""
    groups = {component: tuple(name for name in names if components[name] == component) for component in COMPONENTS}
    return {component: group for component, group in groups.items() if group}


def group_by_depth(names: Sequence[str], depths: Mapping[str, float], bands: int = 4) -> dict[str, tuple[str, ...]]:
    """Return band -> names, from input to output: `bands` equal parts of [0, 1], each with its lower edge, the last with both.

    >>> group_by_depth(["stem", "body", "head"], {"stem": 0.0, "body": 0.5, "head": 1.0}, bands=2)
    {'0.00-0.50': ('stem',), '0.50-1.00': ('body', 'head')}
    """
    # Rounding keeps d / D times bands on the edge where it lies there exactly.
    places = {name: min(int(round(depths[name] * bands, 9)), bands - 1) for name in names}
    groups = {f"{i / bands:.2f}-{(i + 1) / bands:.2f}": tuple(n for n in names if places[n] == i) for i in range(bands)}
    return {band: group for band, group in groups.items() if group}
