"""A complete report of a small convolutional net on digits, to be varied by the tests of gate and client."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.policy import Policy
from schemas.report import Report

MODEL_SHA256 = "1f" * 32
DATA_SHA256 = "2e" * 32
REPORT_SHA256 = "3d" * 32
CLEAN_ACCURACY = 0.975
MODULES = {"features.0": 80, "features.3": 4608, "classifier": 650}
WEIGHTS = sum(MODULES.values())
EPSILONS = (0.1, 0.3)
DAMAGE = {"model": 0.9, "features.0": 0.2, "features.3": 0.6, "classifier": 0.05}
"""Loss change at epsilon 0.1; at 0.3 it is four times that. The accuracy drop is a quarter of the loss change."""

Finding = dict[str, Any]
Change = Callable[[Finding], None]


def build_finding(number: int, kind: str, name: str, epsilon: float, loss_change: float) -> Finding:
    """Return one finding whose figures hang together: one step below the search, random far below both."""
    weights = WEIGHTS if kind == "model" else MODULES[name]
    drop = min(loss_change / 4, CLEAN_ACCURACY)
    return {
        "id": f"f-{number:04d}",
        "scope": {"kind": kind, "name": name, "weights": weights},
        "set": {
            "norm": 2.0,
            "epsilon": epsilon,
            "max_corrupted": None,
            "also_asked": [],
            "weights_corrupted": weights,
            "scale": "absolute",
            "change_per_weight": epsilon * weights**-0.5,
            "relative_epsilon": epsilon / 10,
        },
        "predicted": {"loss_change": loss_change / 3, "kind": "estimate"},
        "first_order": {
            "loss_change": loss_change / 2,
            "kind": "lower_bound",
            "metrics": {"accuracy": {"value": CLEAN_ACCURACY - drop / 2, "drop": drop / 2}},
            "non_finite": None,
        },
        "measured": {
            "loss_change": loss_change,
            "interval": None,
            "kind": "lower_bound",
            "method": "reapplied",
            "metrics": {"accuracy": {"value": CLEAN_ACCURACY - drop, "drop": drop, "interval": None, "method": "reapplied"}},
            "examples": 500,
            "non_finite": None,
        },
        "random": {
            "trials": 20,
            "seed": 0,
            "non_finite_trials": 0,
            "loss_change": {"mean": 1e-4, "std": 2e-4, "max": 1e-3},
            "metrics": {"accuracy": {"worst": CLEAN_ACCURACY, "mean": CLEAN_ACCURACY}},
        },
        "stop_reason": "converged",
        "passes": {"forward": 31, "backward": 10},
    }


def build_findings() -> list[Finding]:
    """Return the findings of the whole model and of every module, at every epsilon."""
    cells = [("model", "model", epsilon) for epsilon in EPSILONS]
    cells += [("per_module", name, epsilon) for name in MODULES for epsilon in EPSILONS]
    return [
        build_finding(number, kind, name, epsilon, DAMAGE[name] * (1 if epsilon == EPSILONS[0] else 4))
        for number, (kind, name, epsilon) in enumerate(cells, start=1)
    ]


def build_ranking(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the modules by loss change, one ranking per epsilon."""
    rankings = []
    for epsilon in EPSILONS:
        members = [one for one in findings if one["scope"]["kind"] == "per_module" and one["set"]["epsilon"] == epsilon]
        members.sort(key=lambda one: -(one["measured"]["loss_change"] or 0))
        entries = [
            {"scope": one["scope"]["name"], "finding": one["id"], "loss_change": one["measured"]["loss_change"]}
            for one in members
        ]
        given = {"norm": 2.0, "epsilon": epsilon, "max_corrupted": None, "scale": "absolute"}
        rankings.append({"kind": "per_module", "set": given, "by": "loss_change", "scopes": entries})
    return rankings


def build_point(lo: float | None, hi: float | None, scope: str = "model", **fields: Any) -> dict[str, Any]:
    """Return the breaking point for a 5-point accuracy drop."""
    point = {
        "limit": {"metric": "accuracy", "drop": 0.05, "loss_change": None},
        "scope": scope,
        "set": {"norm": 2.0, "max_corrupted": None, "scale": "absolute"},
        "reached": hi is not None,
        "bracket": {"lo": lo, "hi": hi},
        "observed": 0.052 if hi is not None else 0.01,
        "evaluations": 12,
        "passes": {"forward": 90, "backward": 40},
    }
    return point | fields


def build_request() -> dict[str, Any]:
    """Return the echo of the request."""
    return {
        "schema_version": 1,
        "model": {"uri": f"artifact:sha256:{MODEL_SHA256}", "format": "auto", "sha256": None},
        "data": {"uri": f"artifact:sha256:{DATA_SHA256}", "format": "auto", "inputs": {}, "target": "labels"},
        "objective": {
            "loss": "cross_entropy",
            "output_kind": "logits",
            "ignore_index": -100,
            "output": 0,
            "metrics": ["accuracy"],
        },
        "sets": [{"norm": 2.0, "epsilon": list(EPSILONS), "max_corrupted": [None], "scale": "absolute"}],
        "scopes": ["model", "per_module"],
        "search": {"method": "reapplied", "budget_passes": 64, "random_trials": 20, "seed": 0},
        "breaking_points": [
            {
                "limit": {"metric": "accuracy", "drop": 0.05, "loss_change": None},
                "scope": "model",
                "norm": 2.0,
                "scale": "absolute",
                "max_corrupted": None,
                "range": [1e-4, 100.0],
            }
        ],
    }


def build_document() -> dict[str, Any]:
    """Return the whole report as plain JSON values, to be changed at will."""
    findings = build_findings()
    return {
        "schema_version": 1,
        "subject": {
            "model": {
                "sha256": MODEL_SHA256,
                "format": "onnx",
                "producer": "pytorch 2.13.0",
                "opset": 20,
                "weights": WEIGHTS,
                "size_bytes": 23_000,
            },
            "data": {"sha256": DATA_SHA256, "examples": 500, "labels_counted": 500, "sampled": False},
            "request_digest": "4c" * 32,
            "engine": {"version": "0.1.0"},
        },
        "request": build_request(),
        "coverage": {
            "weights_total": WEIGHTS,
            "weights_audited": WEIGHTS,
            "tensors_total": 6,
            "tensors_audited": 6,
            "skipped": [],
        },
        "clean": {"loss": 0.0812, "metrics": {"accuracy": CLEAN_ACCURACY}},
        "findings": findings,
        "ranking": build_ranking(findings),
        "breaking_points": [build_point(0.0211, 0.0219)],
        "theory": {
            "scope": "model",
            "weights": WEIGHTS,
            "gradient_norm": 0.211,
            "expected_eta": 0.0109,
            "expected_eta_squared": 1 / WEIGHTS,
            "best_of": [{"trials": 10, "median_eta": 0.0248}, {"trials": 1000, "median_eta": 0.0462}],
            "log10_trials_for_half": 335.2,
            "probability": 0.95,
        },
        "flags": [],
        "counterexamples": [],
        "environment": {
            "device": "cpu",
            "threads": 1,
            "micro_batch": 500,
            "torch": "2.13.0",
            "onnxruntime": "1.31.1",
            "parity": 1.9e-6,
            "sandbox": {"no_new_privileges": True, "limits": True},
            "deterministic": True,
        },
    }


def build_report(**changes: Any) -> Report:
    """Return the report with some of its sections replaced."""
    return Report.model_validate(build_document() | changes)


def build_changed(change: Change, *, where: Callable[[Finding], bool] = lambda _: True) -> Report:
    """Return the report with `change` applied to the findings that `where` picks."""
    findings = build_findings()
    for finding in findings:
        if where(finding):
            change(finding)
    return build_report(findings=findings)


def build_policy(*conditions: Mapping[str, Any], **changes: Any) -> Policy:
    """Return a policy of the conditions given; each gets an id unless it has one."""
    numbered = [{"id": f"c{number}", **condition} for number, condition in enumerate(conditions, start=1)]
    return Policy.model_validate({"name": "test", "conditions": numbered} | changes)
