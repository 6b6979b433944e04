"""Classical models as scikit-learn's converter writes them (domain ai.onnx.ml).

What was learned stands in attributes there. Coefficients and intercepts become weights; what a preparing step took from the
training data (a scaler's means and scales) counts as running statistics.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("classical models", "ai.onnx.ml")

LEAST = 1e-7
"""What SOFTMAX_ZERO takes for zero."""


def _softmax_zero(x: Tensor) -> Tensor:
    highest = x.amax(-1, keepdim=True)
    shares = torch.where(x.abs() > LEAST, torch.exp(x - highest), x * torch.exp(-highest))
    return shares / shares.sum(-1, keepdim=True)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "NONE": lambda x: x,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX": lambda x: torch.softmax(x, -1),
    "SOFTMAX_ZERO": _softmax_zero,
}


def _choose_transform(node: Node) -> Callable[[Tensor], Tensor]:
    name = node.attributes.get("post_transform", "NONE")
    if name not in TRANSFORMS:
        message = f"with post_transform {name} is not supported"
        raise UncoveredError(message)
    return TRANSFORMS[name]


def _learn_linear(node: Node, count: int | None = None) -> dict[str, Tensor]:
    intercepts = node.attributes.get("intercepts", ())
    rows = count or len(intercepts) or 1
    learned = {"coefficients": torch.tensor(node.attributes["coefficients"]).reshape(rows, -1)}
    return learned | ({"intercepts": torch.tensor(intercepts)} if intercepts else {})


def _read_classifier(node: Node) -> dict[str, Any]:
    attributes = node.attributes
    # Labels that are text are left out of the outputs; their place takes the number of the class.
    labels = attributes.get("classlabels_ints") or range(len(attributes.get("classlabels_strings", ())))
    return {"labels": torch.tensor(list(labels)), "transform": _choose_transform(node)}


@operator("LinearClassifier", learn=_learn_linear, prepare=_read_classifier, parameters=(1, 2), many=True)
def linear_classifier(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, labels: Tensor, transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Class of the largest score, and the scores: coefficients x + intercepts, transformed."""
    scores = functional.linear(x.to(weight.dtype), weight, bias)
    labels = labels.to(x.device)
    if scores.shape[-1] > 1 or len(labels) != 2:
        return labels[scores.argmax(-1)], transform(scores)
    positive = transform(scores)
    return labels[(scores[:, 0] > 0).long()], torch.cat((1 - positive, positive), 1)


def _learn_regressor(node: Node) -> dict[str, Tensor]:
    return _learn_linear(node, node.attributes.get("targets", 1))


def _read_regressor(node: Node) -> dict[str, Any]:
    return {"transform": _choose_transform(node)}


@operator("LinearRegressor", learn=_learn_regressor, prepare=_read_regressor, parameters=(1, 2))
def linear_regressor(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Coefficients x + intercepts, transformed."""
    return transform(functional.linear(x.to(weight.dtype), weight, bias))


def _learn_scaler(node: Node) -> dict[str, Tensor]:
    return {name: torch.tensor(node.attributes[name]) for name in ("offset", "scale")}


@operator("Scaler", learn=_learn_scaler, prepare=lambda _: {}, statistics=(1, 2))
def scale(x: Tensor, offset: Tensor, factor: Tensor) -> Tensor:
    """(x - offset) scale, per feature."""
    return (x.to(factor.dtype) - offset) * factor


@operator("Normalizer")
def normalise(x: Tensor, *, norm: str = "MAX") -> Tensor:
    """Divide each row by its largest element, sum of magnitudes or Euclidean norm; where that is zero, by nothing."""
    x = x if x.is_floating_point() else x.float()
    if norm == "MAX":
        length = x.amax(-1, keepdim=True)
    else:
        length = torch.linalg.vector_norm(x, 1 if norm == "L1" else 2, -1, keepdim=True)
    return x / torch.where(length == 0, torch.ones_like(length), length)


@operator("Binarizer")
def binarise(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    """One above the threshold, else zero."""
    return (x > threshold).to(x.dtype)


def _learn_imputer(node: Node) -> dict[str, Tensor]:
    attributes = node.attributes
    return {"imputed": torch.tensor(attributes.get("imputed_value_floats") or attributes["imputed_value_int64s"])}


def _read_imputer(node: Node) -> dict[str, float]:
    get = node.attributes.get
    return {"missing": get("replaced_value_float", 0.0) if get("imputed_value_floats") else get("replaced_value_int64", 0)}


@operator("Imputer", learn=_learn_imputer, prepare=_read_imputer, statistics=(1,))
def impute(x: Tensor, values: Tensor, *, missing: float) -> Tensor:
    """Fill in what is missing, per feature."""
    gaps = x.isnan() if missing != missing else x == missing  # noqa: PLR0124 - NaN is what differs from itself
    return torch.where(gaps, values, x)


@operator("FeatureVectorizer", prepare=lambda _: {}, relays=True)
def join_features(*columns: Tensor) -> Tensor:
    """All features of an example in one row of floats."""
    return torch.cat([column.reshape(column.shape[0], -1).float() for column in columns], 1)


@operator("ArrayFeatureExtractor", relays=True)
def pick_features(x: Tensor, places: Tensor) -> Tensor:
    """Columns by number; one row at least."""
    rows = x.reshape(-1, x.shape[-1]) if x.ndim < 2 else x
    return rows.index_select(-1, places.reshape(-1).to(x.device))


def _read_categories(node: Node) -> dict[str, Any]:
    attributes = node.attributes
    if "cats_strings" in attributes:
        message = "encodes text, which is not supported"
        raise UncoveredError(message)
    if not attributes.get("zeros", 1):
        message = "that fails on an unknown category is not supported"
        raise UncoveredError(message)
    return {"categories": torch.tensor(attributes["cats_int64s"])}


@operator("OneHotEncoder", prepare=_read_categories)
def encode_categories(x: Tensor, *, categories: Tensor) -> Tensor:
    """One at the place of each number among the categories, else zero."""
    return (x.long().unsqueeze(-1) == categories.to(x.device)).float()


_KINDS: dict[str, torch.dtype] = {"int64s": torch.int64, "floats": torch.float32}


def _find_pairs(attributes: Any, side: str) -> Tensor:
    if f"{side}_tensor" in attributes:
        found: Tensor = attributes[f"{side}_tensor"]
        return found.reshape(-1)
    kind = next((kind for kind in _KINDS if f"{side}_{kind}" in attributes), None)
    if kind is None:
        message = "encodes text, which is not supported"
        raise UncoveredError(message)
    return torch.tensor(attributes[f"{side}_{kind}"], dtype=_KINDS[kind])


def _read_labels(node: Node) -> dict[str, Tensor]:
    attributes = node.attributes
    keys, values = _find_pairs(attributes, "keys"), _find_pairs(attributes, "values")
    default = attributes.get("default_tensor")
    if default is None:
        default = torch.tensor(
            attributes.get("default_float", -0.0) if values.is_floating_point() else attributes.get("default_int64", -1)
        )
    return {"keys": keys, "values": values, "default": default.reshape(()).to(values.dtype)}


@operator("LabelEncoder", since=2, prepare=_read_labels)
def encode_labels(x: Tensor, *, keys: Tensor, values: Tensor, default: Tensor) -> Tensor:
    """The value that a key stands for, or a default."""
    keys, values, default = (part.to(x.device) for part in (keys, values, default))
    same = (x.unsqueeze(-1) == keys) | (x.unsqueeze(-1).isnan() & keys.isnan())
    return torch.where(same.any(-1), values[same.int().argmax(-1)], default)


@operator("ZipMap", alias=True, relays=True, prepare=lambda _: {})
def zip_map(x: Tensor) -> Tensor:
    """The scores themselves, one column per class: a map from class to score has no gradient."""
    return x


KERNELS: dict[str, Callable[[Tensor, Tensor, Sequence[float]], Tensor]] = {
    "LINEAR": lambda x, y, _: x @ y.t(),
    "POLY": lambda x, y, k: (k[0] * (x @ y.t()) + k[1]) ** k[2],
    "RBF": lambda x, y, k: torch.exp(-k[0] * (x.unsqueeze(-2) - y).square().sum(-1)),
    "SIGMOID": lambda x, y, k: torch.tanh(k[0] * (x @ y.t()) + k[1]),
}


def _learn_vectors(node: Node) -> dict[str, Tensor]:
    attributes = node.attributes
    vectors = torch.tensor(attributes.get("support_vectors", ())).reshape(max(attributes.get("n_supports", 0), 1), -1)
    learned = {name: torch.tensor(attributes[name]) for name in ("coefficients", "rho")}
    return {"support_vectors": vectors, **learned} if attributes.get("n_supports", 0) else learned


def _read_vectors(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    if get("one_class", 0) or not get("n_supports", 0):
        message = "of one class or without support vectors is not supported"
        raise UncoveredError(message)
    kernel, numbers = KERNELS[get("kernel_type", "LINEAR")], get("kernel_params", (0.0, 0.0, 0.0))
    return {"kernel": kernel, "numbers": numbers, "transform": _choose_transform(node)}


@operator("SVMRegressor", learn=_learn_vectors, prepare=_read_vectors, parameters=(1, 2, 3))
def svm_regressor(
    x: Tensor,
    vectors: Tensor,
    coefficients: Tensor,
    rho: Tensor,
    *,
    kernel: Callable[[Tensor, Tensor, Sequence[float]], Tensor],
    numbers: Sequence[float],
    transform: Callable[[Tensor], Tensor],
) -> Tensor:
    """Coefficients k(support vectors, x) + rho, transformed."""
    return transform(kernel(x.to(vectors.dtype), vectors, numbers) @ coefficients.reshape(-1, 1) + rho)
