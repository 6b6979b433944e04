"""Options and the request file become one request; every fault comes at once, none is guessed at."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from client.errors import BadUsage
from client.options import AuditOptions, prepare_audit
from schemas.base import compute_sha256
from schemas.policy import Policy
from schemas.request import AuditRequest, NamedScope

BASE = AuditOptions(model="model.onnx", data="data.npz")


def prepare(**options: Any) -> AuditRequest:
    return prepare_audit(BASE._replace(**options)).request


def refuse(options: AuditOptions) -> dict[str, str]:
    with pytest.raises(BadUsage) as caught:
        prepare_audit(options)
    return {fault.where: fault.what for fault in caught.value.faults}


def write(folder: Path, **request: Any) -> Path:
    path = folder / "request.yaml"
    path.write_text(yaml.safe_dump(request), encoding="utf-8")
    return path


def test_files_are_named_by_their_digests() -> None:
    prepared = prepare_audit(BASE)
    model, data = compute_sha256(Path("model.onnx").read_bytes()), compute_sha256(Path("data.npz").read_bytes())
    assert prepared.request.model.uri == f"artifact:sha256:{model}"
    assert prepared.request.data.uri == f"artifact:sha256:{data}"
    assert prepared.uploads == {model: Path("model.onnx"), data: Path("data.npz")}


def test_held_out_data_is_uploaded_and_its_arrays_are_named_as_in_the_data() -> None:
    Path("other.npz").write_bytes(b"other")
    prepared = prepare_audit(BASE._replace(evaluate_on="other.npz", target="y"))
    digest = compute_sha256(b"other")
    assert prepared.request.evaluate_on is not None
    assert (prepared.request.evaluate_on.uri, prepared.request.evaluate_on.target) == (f"artifact:sha256:{digest}", "y")
    assert prepared.uploads[digest] == Path("other.npz")
    assert prepare().evaluate_on is None


def test_a_file_that_computes_the_loss_is_uploaded_by_option_or_beside_the_request(tmp_path: Path) -> None:
    Path("loss.pt").write_bytes(b"loss")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "loss.pt").write_bytes(b"another")
    uri = f"artifact:sha256:{compute_sha256(b'loss')}"
    prepared = prepare_audit(BASE._replace(objective="loss.pt", metrics=("accuracy",)))
    assert prepared.request.objective.model_dump(include={"loss", "metrics"}) == {"loss": "program", "metrics": ("accuracy",)}
    assert prepared.request.objective.program is not None
    assert prepared.request.objective.program.uri == uri
    assert prepared.uploads[compute_sha256(b"loss")] == Path("loss.pt")
    asked = BASE._replace(request=write(tmp_path / "elsewhere", objective={"program": "loss.pt"}))
    assert prepare_audit(asked).uploads[compute_sha256(b"another")] == tmp_path / "elsewhere" / "loss.pt"
    assert compute_sha256(b"loss") in prepare_audit(asked._replace(objective="loss.pt")).uploads
    faults = refuse(BASE._replace(objective="nothing.pt", loss="mse"))
    assert set(faults) == {"nothing.pt", "the request, /objective"}


def test_roundings_and_scales_are_sets() -> None:
    sets = prepare(sets=("rounding=int8,granularity=per_channel", "norm=2,epsilon=0.1,scale=tensor")).sets
    assert sets is not None
    assert [entry.scale for entry in sets] == ["rounding_int8_per_channel", "tensor"]


def test_a_set_holds_every_epsilon_and_limit() -> None:
    request = prepare(sets=("norm=2,epsilon=0.01/1e-1,n=all/100", "norm=inf,epsilon=1"))
    assert request.model_dump(mode="json")["sets"] == [
        {"norm": 2.0, "epsilon": [0.01, 0.1], "max_corrupted": [None, 100], "scale": "absolute"},
        {"norm": "inf", "epsilon": [1.0], "max_corrupted": [None], "scale": "absolute"},
    ]


def test_scopes_are_kinds_or_named_patterns() -> None:
    assert prepare(scopes=("per_tensor", "attention=blocks.*.attn.*")).scopes == (
        "per_tensor",
        NamedScope(name="attention", match="blocks.*.attn.*"),
    )


def test_a_breaking_point_has_its_limit_and_range() -> None:
    points = prepare(breaking_points=("metric=accuracy,drop=0.05,range=0.001/10,scope=fc", "loss_change=1,n=10")).breaking_points
    assert points is not None
    assert (points[0].limit.metric, points[0].limit.drop, points[0].range, points[0].scope) == (
        "accuracy",
        0.05,
        (0.001, 10),
        "fc",
    )
    assert (points[1].limit.loss_change, points[1].max_corrupted) == (1.0, 10)


def test_every_other_option_lands_in_its_field() -> None:
    request = prepare(
        inputs=("x=images", "mask=m"),
        target="y",
        loss="cross_entropy",
        output_kind="probabilities",
        metrics=("top_5", "accuracy"),
        method="first_order",
        budget_passes=7,
        random_trials=3,
        seed=5,
        labels=("git_sha=1f=3c",),
        fresh=True,
        device="cuda",
        priority=0,
        deadline_s=90.0,
    )
    assert (request.device, request.priority, request.deadline_s) == ("cuda", 0, 90.0)
    assert (request.data.inputs, request.data.target) == ({"x": "images", "mask": "m"}, "y")
    assert (request.objective.output_kind, request.objective.metrics) == ("probabilities", ("top_5", "accuracy"))
    assert (request.search.method, request.search.budget_passes) == ("first_order", 7)
    assert (request.search.random_trials, request.search.seed) == (3, 5)
    assert (request.labels, request.fresh) == ({"git_sha": "1f=3c"}, True)


def test_options_replace_what_the_request_file_says_and_keep_the_rest(folder: Path) -> None:
    path = write(
        folder,
        data={"uri": "artifact:sha256:" + "0" * 64, "target": "y"},
        search={"seed": 3, "budget_passes": 9},
        scopes=["model"],
        labels={"a": "1", "b": "1"},
    )
    request = prepare(request=path, seed=4, labels=("b=2",), sets=("norm=1,epsilon=2",))
    assert request.data.target == "y"
    assert request.data.uri.endswith(compute_sha256(Path("data.npz").read_bytes()))
    assert (request.search.seed, request.search.budget_passes) == (4, 9)
    assert (request.scopes, request.labels) == (("model",), {"a": "1", "b": "2"})


def test_a_request_file_may_name_everything(folder: Path) -> None:
    uri = "artifact:sha256:" + "a" * 64
    path = write(folder, model={"uri": uri}, data={"uri": uri}, policy="pass.yaml")
    prepared = prepare_audit(AuditOptions(request=path))
    assert prepared.request.model.uri == uri
    assert prepared.uploads == {}
    assert isinstance(prepared.request.policy, Policy)
    assert prepared.request.policy.name == "pass"


def test_a_policy_option_replaces_that_of_the_file(folder: Path) -> None:
    request = prepare(request=write(folder, policy={"name": "nothing"}), policy=folder / "fail.yaml")
    assert isinstance(request.policy, Policy)
    assert request.policy.name == "fail"


def test_an_uploaded_artifact_can_be_named_instead_of_a_file() -> None:
    uri = "artifact:sha256:" + "b" * 64
    prepared = prepare_audit(BASE._replace(model=uri))
    assert prepared.request.model.uri == uri
    assert list(prepared.uploads.values()) == [Path("data.npz")]


def test_all_faults_of_files_and_options_come_at_once(folder: Path) -> None:
    (folder / "policy.yaml").write_text("name: p\nconditions: []\n", encoding="utf-8")
    faults = refuse(AuditOptions(data="missing.npz", policy=Path("policy.yaml"), sets=("norm=2",), labels=("x",), method="magic"))
    assert set(faults) == {
        "model",
        "missing.npz",
        "policy.yaml#/conditions",
        "the request, /sets/0/epsilon",
        "--label",
        "the request, /search/method",
    }


def test_faults_of_a_request_file_are_told_with_the_file(folder: Path) -> None:
    path = write(folder, search={"sed": 1})
    assert set(refuse(BASE._replace(request=path))) == {f"{path}#/search/sed"}


@pytest.mark.parametrize("text", ["", "norm", "norm=", "norm=2,norm=1", "n=1,max_corrupted=2", "size=3"])
def test_a_set_that_cannot_be_read_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadUsage) as caught:
        prepare_audit(BASE._replace(sets=(text,)))
    assert caught.value.faults[0].where == "--set"
    assert "norm=2,epsilon=" in caught.value.faults[0].advice


@pytest.mark.parametrize("content", ["[1, 2]", "just text", "3"])
def test_a_request_file_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    (folder / "r.yaml").write_text(content, encoding="utf-8")
    assert set(refuse(BASE._replace(request=Path("r.yaml")))) == {"r.yaml"}


def test_precision_is_a_relative_error_or_what_the_policy_asks(tmp_path: Path) -> None:
    request = prepare(max_examples=500, precision="0.05")
    assert request.precision is not None
    assert (request.data.max_examples, request.precision.relative_error, request.precision.thresholds) == (500, 0.05, ())
    require = {"metric": "accuracy", "drop_at_most": 0.05}
    conditions = [
        {"id": "a", "require": require},
        {"id": "b", "where": {"scope": "per_module"}, "require": require},
        {"id": "c", "require": {"breaking_point_at_least": 0.1}},
    ]
    document = {"name": "p", "confidence": 0.99, "conditions": conditions, "requires": {"clean": {"accuracy_at_least": 0.9}}}
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump(document), encoding="utf-8")
    precision = prepare(policy=policy, precision="gate").precision
    assert precision is not None
    assert precision.model_dump(exclude_none=True) == {
        "confidence": 0.99,
        "thresholds": ({"metric": "accuracy", "drop_at_most": 0.05},),
        "clean": {"accuracy_at_least": 0.9},
    }
    policy.write_text(yaml.safe_dump(document | {"conditions": conditions[2:]}), encoding="utf-8")
    assert getattr(prepare(policy=policy, precision="gate").precision, "relative_error", None) == 0.05


def test_precision_without_an_end_is_refused(tmp_path: Path) -> None:
    assert refuse(BASE._replace(precision="gate")) == {"--precision": "--precision gate has no thresholds"}
    assert list(refuse(BASE._replace(precision="soon"))) == ["the request, /precision/relative_error"]
    path = write(tmp_path, policy={"name": "p", "conditions": []})
    assert list(refuse(BASE._replace(request=path, precision="gate"))) == [f"{path}#/policy/conditions"]
