"""Classical models as scikit-learn's converter writes them: against scikit-learn, ONNX Runtime, and in whole audits."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR

from schemas.errors import UnsupportedOperator
from tests.worker.audits import build_request
from tests.worker.engine.models.onnx.graphs import node, save
from worker.audit import AuditInput, measure_audit
from worker.engine.models.load import measure_parity
from worker.engine.models.onnx import load_onnx, run_reference

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the converter asks for an attribute that the library is to drop
]

SMALL_NETWORK: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 100, "random_state": 0}
CLASSIFIERS: dict[str, tuple[Any, int]] = {
    "logistic": (LogisticRegression(max_iter=500), 15),
    "network": (MLPClassifier(**SMALL_NETWORK), 4 * 8 + 8 + 8 * 3 + 3),
    "scaled logistic": (make_pipeline(StandardScaler(), LogisticRegression()), 15),
    "scaled network": (make_pipeline(RobustScaler(), MLPClassifier(**SMALL_NETWORK)), 4 * 8 + 8 + 8 * 3 + 3),
    "filled and normalised": (make_pipeline(SimpleImputer(), Normalizer("l2"), LogisticRegression()), 15),
    "columns": (
        make_pipeline(ColumnTransformer([("a", StandardScaler(), [0, 3]), ("b", RobustScaler(), [1, 2])]), LogisticRegression()),
        15,
    ),
    "components": (make_pipeline(PCA(2), LogisticRegression()), 4 * 2 + 4 + 3 * 2 + 3),
    "min and max": (make_pipeline(MinMaxScaler(), LogisticRegression()), 4 + 4 + 15),
}
REGRESSORS: dict[str, tuple[Any, int]] = {
    "linear": (LinearRegression(), 11),
    "scaled ridge": (make_pipeline(StandardScaler(), Ridge()), 11),
    "network": (make_pipeline(StandardScaler(), MLPRegressor(**SMALL_NETWORK)), 10 * 8 + 8 + 8 + 1),
}
IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def _save(folder: Path, model: Any, data: tuple[Any, Any], *, maps: bool = True, names: list[str] | None = None) -> Path:
    x = data[0].astype(np.float32)
    model.fit(x, data[1] if names is None else np.array(names)[data[1]])
    path = folder / "model.onnx"
    options = None if maps else {"zipmap": False}
    path.write_bytes(to_onnx(model, x[:1], options=options).SerializeToString())
    return path


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_give_the_probabilities_of_the_library(tmp_path: Path, name: str, *, maps: bool) -> None:
    model, weights = CLASSIFIERS[name]
    path = _save(tmp_path, model, IRIS, maps=maps)
    program = load_onnx(path)
    inputs = {"X": torch.from_numpy(IRIS[0].astype(np.float32))}

    assert measure_parity(path, program, inputs, threads=1) <= 1e-5
    found = next(iter(program.forward({}, inputs).values()))
    assert np.abs(found.detach().numpy() - model.predict_proba(IRIS[0].astype(np.float32))).max() <= 1e-5
    assert sum(weight.numel() for weight in program.weights.values()) == weights


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_give_the_values_of_the_library(tmp_path: Path, name: str) -> None:
    model, weights = REGRESSORS[name]
    path = _save(tmp_path, model, DIABETES)
    program = load_onnx(path)
    x = DIABETES[0].astype(np.float32)

    assert measure_parity(path, program, {"X": torch.from_numpy(x)}, threads=1) <= 1e-5
    found = program.forward({}, {"X": torch.from_numpy(x)})["variable"].detach().numpy()[:, 0]
    assert np.allclose(found, model.predict(x), rtol=1e-4)
    assert sum(weight.numel() for weight in program.weights.values()) == weights


def test_support_vectors_are_weights(tmp_path: Path) -> None:
    model = SVR(C=100.0, epsilon=50.0)
    program = load_onnx(_save(tmp_path, model, DIABETES))
    x = DIABETES[0].astype(np.float32)

    found = program.forward({}, {"X": torch.from_numpy(x)})["variable"].detach().numpy()[:, 0]
    assert np.allclose(found, model.predict(x), rtol=1e-4)
    assert np.array_equal(program.weights["SVM.support_vectors"], model.support_vectors_.astype(np.float32))


@pytest.mark.parametrize("model", [LogisticRegression(max_iter=500), MLPClassifier(**SMALL_NETWORK)])
def test_labels_that_are_text_are_left_out(tmp_path: Path, model: Any) -> None:
    path = _save(tmp_path, model, IRIS, names=["setosa", "versicolor", "virginica"])
    program = load_onnx(path)
    inputs = {"X": torch.from_numpy(IRIS[0].astype(np.float32))}

    assert program.outputs == ("output_probability",)
    assert list(run_reference(path, inputs, threads=1)) == ["output_probability"]
    assert measure_parity(path, program, inputs, threads=1) <= 1e-5


@pytest.mark.parametrize(("model", "word"), [(RandomForestClassifier(3), "trees"), (SVC(), "vote")])
def test_models_without_a_gradient_are_refused_with_the_reason(tmp_path: Path, model: Any, word: str) -> None:
    with pytest.raises(UnsupportedOperator, match=rf"{word}.*no gradient"):
        load_onnx(_save(tmp_path, model, IRIS))


@pytest.mark.parametrize("name", ["logistic", "scaled network"])
def test_classifiers_are_audited(tmp_path: Path, name: str) -> None:
    model, weights = CLASSIFIERS[name]
    path = _save(tmp_path, model, IRIS)
    np.savez(tmp_path / "data.npz", inputs=IRIS[0].astype(np.float32), labels=IRIS[1])
    objective = {"loss": "cross_entropy", "output_kind": "probabilities"}
    request = build_request(objective=objective, scopes=["model", "per_module"])
    (tmp_path / "scratch").mkdir()

    measured = measure_audit(AuditInput(request, path, tmp_path / "data.npz", tmp_path / "scratch"), lambda *_: None)

    assert measured.coverage.weights_audited == weights
    assert measured.clean.metrics["accuracy"] == pytest.approx(model.score(IRIS[0].astype(np.float32), IRIS[1]), abs=1e-9)
    whole = next(finding for finding in measured.findings if finding.scope.kind == "model")
    assert (whole.measured.loss_change or 0) > 0.05


ml = functools.partial(node, domain="ai.onnx.ml")
FORMS: dict[str, tuple[NodeProto, torch.Tensor, int]] = {
    **{
        f"classifier of {len(labels)} by {coefficients} {transform}": (
            ml(
                "LinearClassifier",
                ["x"],
                ["y_indices", "y"],
                coefficients=np.linspace(-1, 2, 3 * coefficients).tolist(),
                intercepts=np.linspace(-0.5, 0.25, coefficients).tolist(),
                classlabels_ints=labels,
                post_transform=transform,
            ),
            torch.randn(5, 3),
            TensorProto.FLOAT,
        )
        for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
        for labels, coefficients in (([4, 9], 1), ([4, 9], 2), ([7, 5, 1], 3))
        if not (coefficients == 1 and transform.startswith("SOFTMAX"))
    },
    **{f"normaliser {norm}": (ml("Normalizer", ["x"], ["y"], norm=norm), torch.randn(4, 3), 1) for norm in ("MAX", "L1", "L2")},
    "zero rows": (ml("Normalizer", ["x"], ["y"], norm="L2"), torch.zeros(2, 3), TensorProto.FLOAT),
    "binariser": (ml("Binarizer", ["x"], ["y"], threshold=0.2), torch.randn(4, 3), TensorProto.FLOAT),
    "scaler": (ml("Scaler", ["x"], ["y"], offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, -1.0]), torch.randn(4, 3), TensorProto.FLOAT),
    "one number": (ml("Scaler", ["x"], ["y"], offset=[1.0], scale=[0.5]), torch.randn(4, 3), TensorProto.FLOAT),
    "imputer": (
        ml("Imputer", ["x"], ["y"], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=float("nan")),
        torch.tensor([[1.0, torch.nan, 3.0], [torch.nan, 5.0, torch.nan]]),
        TensorProto.FLOAT,
    ),
    "imputer of a number": (
        ml("Imputer", ["x"], ["y"], imputed_value_int64s=[8], replaced_value_int64=2),
        torch.tensor([[1, 2, 3]]),
        TensorProto.INT64,
    ),
    "labels": (
        ml("LabelEncoder", ["x"], ["y"], keys_int64s=[3, 5], values_int64s=[30, 50], default_int64=-7),
        torch.tensor([5, 3, 4]),
        TensorProto.INT64,
    ),
    "labels to numbers": (
        ml("LabelEncoder", ["x"], ["y"], keys_floats=[3.0, 5.0], values_floats=[0.25, 0.5], default_float=9.0),
        torch.tensor([5.0, 3.0, 4.0]),
        TensorProto.FLOAT,
    ),
    "regressor": (
        ml("LinearRegressor", ["x"], ["y"], coefficients=[1.0, -2.0, 0.5, 0.1, 0.2, 0.3], intercepts=[0.3, -0.1], targets=2),
        torch.randn(4, 3),
        TensorProto.FLOAT,
    ),
    **{
        f"support vectors {kernel}": (
            ml(
                "SVMRegressor",
                ["x"],
                ["y"],
                kernel_type=kernel,
                kernel_params=[0.3, 0.2, 3.0],
                support_vectors=np.linspace(-1, 1, 12).tolist(),
                coefficients=[0.5, -1.0, 2.0, 0.25],
                n_supports=4,
                rho=[0.7],
            ),
            torch.randn(5, 3),
            TensorProto.FLOAT,
        )
        for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID")
    },
}


@pytest.mark.parametrize("name", FORMS)
def test_operators_agree_with_the_runtime(tmp_path: Path, name: str) -> None:
    form, x, dtype = FORMS[name]
    path = save(tmp_path, [form], opsets={"": 20, "ai.onnx.ml": 2}, dtype=dtype)
    expected = run_reference(path, {"x": x}, threads=1)

    found = load_onnx(path).forward({}, {"x": x})

    for output, value in expected.items():
        assert found[output].dtype == value.dtype
        assert torch.allclose(found[output].detach(), value, 1e-5, 1e-6), output


def test_columns_are_picked_and_joined_as_the_runtime_does(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["places"], value_ints=[2, 0]),
        ml("ArrayFeatureExtractor", ["x", "places"], ["a"]),
        ml("FeatureVectorizer", ["x", "a"], ["y"], inputdimensions=[3, 2]),
    ]
    path = save(tmp_path, nodes, opsets={"": 20, "ai.onnx.ml": 2})
    x = torch.randn(4, 3)

    assert torch.equal(load_onnx(path).forward({}, {"x": x})["y"], run_reference(path, {"x": x}, threads=1)["y"])


def test_maps_of_scores_are_left_to_the_interpreter(tmp_path: Path) -> None:
    model, _ = CLASSIFIERS["network"]
    with_maps = load_onnx(_save(tmp_path, model, IRIS))
    without = load_onnx(_save(tmp_path, model, IRIS, maps=False))

    assert not any(step.name in with_maps.nodes for step in with_maps.steps if step.operator == "ai.onnx.ml.ZipMap")
    assert all(step.name in without.nodes for step in without.steps)
