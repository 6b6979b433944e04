"""Example documents of the OpenAPI page; a test reads each through its contract."""

from typing import Any

MODEL_SHA256 = "9f3c" * 16
DATA_SHA256 = "77ab" * 16
REPORT_SHA256 = "41d0" * 16
POLICY_SHA256 = "c0de" * 16
REQUEST_DIGEST = "5be1" * 16
AUDIT_ID = "0644c8b2f9a1cg7k2m4p8qr0s3tv5"
KEY = "3f0c6c1e-5a0b-4f55-9d53-0f7f6f6f2b1a"
_JOB_PATH = f"/v1/audits/{AUDIT_ID}"

Document = dict[str, Any]

ABOUT: Document = {
    "name": "faultline",
    "version": "0.1.0",
    "commit": "6f1ed0029c1b",
    "limits": {"upload_bytes": 4294967296, "request_bytes": 1048576, "verdict_bytes": 67108864, "wait_s": 60},
    "links": {"audits": "/v1/audits", "verdicts": "/v1/verdicts"},
}
HEALTH: Document = {"status": "alive"}
READINESS: Document = {
    "status": "ready",
    "workers": 2,
    "announced_s": [0.8, 2.9],
    "audits": {"queued": 1, "running": 2, "succeeded": 310},
    "oldest_queued_s": 4.2,
    "sandbox": {"landlock": True, "namespaces": False, "seccomp": True},
}
ARTIFACT: Document = {
    "sha256": MODEL_SHA256,
    "size_bytes": 61234,
    "uri": f"artifact:sha256:{MODEL_SHA256}",
    "url": f"/v1/artifacts/{MODEL_SHA256}",
}

POLICY: Document = {
    "schema_version": 1,
    "name": "production",
    "requires": {"clean": {"accuracy_at_least": 0.95}, "examples_at_least": 500},
    "conditions": [
        {
            "id": "whole-model",
            "where": {"scope": "model", "norm": 2, "epsilon": 0.1},
            "require": {"metric": "accuracy", "drop_at_most": 0.05},
        },
        {"id": "loss", "where": {"scope": "model"}, "require": {"loss_change_at_most": 0.5}, "severity": "warning"},
    ],
}
AUDIT_REQUEST: Document = {
    "schema_version": 1,
    "model": {"uri": f"artifact:sha256:{MODEL_SHA256}", "format": "onnx"},
    "data": {"uri": f"artifact:sha256:{DATA_SHA256}", "inputs": {"image": "images"}, "target": "labels"},
    "objective": {"loss": "cross_entropy", "metrics": ["accuracy"]},
    "sets": [{"norm": 2, "epsilon": [0.01, 0.1], "max_corrupted": [None, 100]}, {"norm": "inf", "epsilon": [0.001]}],
    "scopes": ["model", "per_module"],
    "policy": POLICY,
    "labels": {"git_sha": "6f1ed002", "branch": "main"},
}

QUEUED_JOB: Document = {
    "schema_version": 1,
    "kind": "audit",
    "id": AUDIT_ID,
    "state": "queued",
    "revision": 1,
    "created_at": "2026-01-31T12:00:00Z",
    "started_at": None,
    "ended_at": None,
    "attempt": 0,
    "cancel_requested": False,
    "progress": None,
    "request_digest": REQUEST_DIGEST,
    "report": None,
    "problem": None,
    "verdict": None,
    "timings": {"queued_s": None, "running_s": None},
    "labels": {"git_sha": "6f1ed002", "branch": "main"},
    "links": {"self": _JOB_PATH, "cancel": _JOB_PATH},
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "device": "cpu",
    "priority": 5,
    "deadline_at": None,
}
SUCCEEDED_JOB: Document = QUEUED_JOB | {
    "state": "succeeded",
    "revision": 9,
    "started_at": "2026-01-31T12:00:01Z",
    "ended_at": "2026-01-31T12:00:21Z",
    "attempt": 1,
    "progress": {"phase": "measure", "done": 40, "total": 40, "eta_s": 0.0},
    "report": {"sha256": REPORT_SHA256, "url": f"{_JOB_PATH}/report"},
    "verdict": {"outcome": "fail", "url": f"{_JOB_PATH}/verdict"},
    "timings": {"queued_s": 1.0, "running_s": 20.0},
    "links": {"self": _JOB_PATH, "report": f"{_JOB_PATH}/report", "verdict": f"{_JOB_PATH}/verdict"},
}
CANCELLED_JOB: Document = QUEUED_JOB | {
    "state": "cancelled",
    "revision": 2,
    "ended_at": "2026-01-31T12:00:05Z",
    "cancel_requested": True,
    "problem": {
        "type": "urn:faultline:problem:cancelled",
        "title": "The audit was cancelled",
        "status": 409,
        "code": "cancelled",
        "detail": "the caller cancelled the audit",
        "errors": [],
    },
    "timings": {"queued_s": 5.0, "running_s": None},
    "links": {"self": _JOB_PATH},
}
JOB_PAGE: Document = {"items": [SUCCEEDED_JOB], "next": AUDIT_ID}

_FINDING: Document = {
    "normalised_loss_change": None,
    "id": "f-0001",
    "scope": {"kind": "model", "name": "model", "weights": 14458, "component": None, "depth": None},
    "set": {
        "norm": 2.0,
        "epsilon": 0.1,
        "max_corrupted": None,
        "also_asked": [],
        "weights_corrupted": 14458,
        "scale": "absolute",
        "zero_scale": 0,
        "change_per_weight": 0.00083,
        "relative_epsilon": 0.0061,
    },
    "predicted": {"loss_change": 0.91, "kind": "estimate"},
    "first_order": {
        "loss_change": 1.37,
        "kind": "lower_bound",
        "metrics": {"accuracy": {"value": 0.748, "drop": 0.242}},
        "non_finite": None,
    },
    "measured": {
        "loss_change": 2.11,
        "interval": None,
        "kind": "lower_bound",
        "method": "reapplied",
        "metrics": {"accuracy": {"value": 0.702, "drop": 0.288, "interval": None, "method": "reapplied", "value_interval": None}},
        "examples": 500,
        "non_finite": None,
    },
    "random": None,
    "stop_reason": "converged",
    "passes": {"forward": 12, "backward": 11},
    "held_out": None,
    "upper_bound": None,
    "smoothness": None,
    "error_bound": None,
}
REPORT: Document = {
    "schema_version": 1,
    "subject": {
        "model": {
            "sha256": MODEL_SHA256,
            "format": "onnx",
            "producer": "pytorch 2.13.0",
            "opset": 20,
            "weights": 14458,
            "size_bytes": 61234,
        },
        "data": {"sha256": DATA_SHA256, "examples": 500, "labels_counted": 500, "sampled": False, "search_examples": None},
        "evaluate_on": None,
        "objective": None,
        "request_digest": REQUEST_DIGEST,
        "engine": {"version": "0.1.0"},
    },
    "request": {
        "schema_version": 1,
        "model": {"uri": f"artifact:sha256:{MODEL_SHA256}", "format": "onnx", "sha256": None},
        "data": {"uri": f"artifact:sha256:{DATA_SHA256}", "format": "npz", "inputs": {"image": "images"}, "target": "labels"},
        "evaluate_on": None,
        "confidence": 0.95,
        "objective": {
            "loss": "cross_entropy",
            "output_kind": "logits",
            "ignore_index": -100,
            "output": 0,
            "metrics": ["accuracy"],
        },
        "sets": [{"norm": 2.0, "epsilon": [0.1], "max_corrupted": [None], "scale": "absolute"}],
        "scopes": ["model"],
        "search": {"method": "reapplied", "budget_passes": 64, "random_trials": 0, "seed": 0},
        "theory": {"upper_bounds": False, "smoothness": False},
        "breaking_points": None,
        "bit_flips": [],
    },
    "coverage": {"weights_total": 14458, "weights_audited": 14458, "tensors_total": 18, "tensors_audited": 18, "skipped": []},
    "clean": {
        "loss": 0.041,
        "normalised_loss": 0.038,
        "metrics": {"accuracy": 0.99},
        "loss_interval": None,
        "metric_intervals": {},
    },
    "findings": [_FINDING],
    "ranking": [],
    "comparability": [],
    "complete": True,
    "unmeasured": [],
    "breaking_points": [],
    "bit_flips": [],
    "theory": None,
    "flags": [],
    "counterexamples": [],
    "environment": {
        "device": "cpu",
        "threads": 1,
        "micro_batch": 128,
        "torch": "2.13.0",
        "onnxruntime": "1.31.1",
        "parity": 1.2e-6,
        "sandbox": {"no_new_privileges": True},
        "deterministic": True,
    },
}
VERDICT_REQUEST: Document = {"policy": POLICY, "audit_id": AUDIT_ID, "baseline": None}
VERDICT: Document = {
    "schema_version": 1,
    "outcome": "fail",
    "assurance": "searched",
    "policy_name": "production",
    "policy_sha256": POLICY_SHA256,
    "report_sha256": REPORT_SHA256,
    "model_sha256": MODEL_SHA256,
    "conditions": [
        {
            "id": "whole-model",
            "outcome": "fail",
            "finding": "f-0001",
            "scope": "model",
            "matched": 1,
            "observed": 0.288,
            "threshold": 0.05,
            "waived_by": None,
            "message": "The worst corruption found of the whole model drops accuracy by 0.288; the limit is 0.05.",
        },
        {
            "id": "loss",
            "outcome": "warn",
            "finding": "f-0001",
            "scope": "model",
            "matched": 1,
            "observed": 2.11,
            "threshold": 0.5,
            "waived_by": None,
            "message": "The worst corruption found of the whole model gives a loss change of 2.11; the limit is 0.5.",
        },
    ],
    "requires": [
        {"name": "clean.accuracy_at_least", "met": True, "outcome": "pass", "message": "The clean accuracy is 0.99."},
        {"name": "examples_at_least", "met": True, "outcome": "pass", "message": "The figures are of 500 examples."},
    ],
    "coverage": {"weights_total": 14458, "weights_audited": 14458, "message": "14458 of 14458 weights (100.0%) were audited."},
    "regression": None,
    "expired_waivers": [],
    "reasons": [],
}
