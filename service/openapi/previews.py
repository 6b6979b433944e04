"""Example documents of plans, inspections and uploads; a test reads each through its contract."""

from service.openapi.examples import ARTIFACT, AUDIT_ID, AUDIT_REQUEST, MODEL_SHA256, QUEUED_JOB, REPORT, Document

PLAN_JOB: Document = QUEUED_JOB | {"kind": "plan", "links": {"self": f"/v1/plans/{AUDIT_ID}"}}
PLAN: Document = {
    "schema_version": 1,
    "supported": True,
    "subject": REPORT["subject"],
    "request": {name: value for name, value in AUDIT_REQUEST.items() if name not in {"policy", "labels"}},
    "coverage": REPORT["coverage"],
    "scopes": [{"kind": "model", "scopes": 1, "weights": 14458, "cells": 5}],
    "cells": 5,
    "passes": {"forward": 266, "backward": 156},
    "parts": [
        {
            "work": "gradient",
            "scope": "model",
            "count": 1,
            "passes": {"forward": 1, "backward": 1},
            "examples": 500,
            "seconds": 0.04,
        },
        {
            "work": "search",
            "scope": "model",
            "count": 5,
            "passes": {"forward": 165, "backward": 155},
            "examples": 500,
            "seconds": 5.1,
        },
        {
            "work": "random_trials",
            "scope": "model",
            "count": 5,
            "passes": {"forward": 100, "backward": 0},
            "examples": 500,
            "seconds": 0.9,
        },
    ],
    "memory": {
        "weights_bytes": 57832,
        "gradient_bytes": 57832,
        "activations_bytes": 21408,
        "micro_batch": 256,
        "kept_bytes": 10704000,
        "search_bytes": 1156640,
        "total_bytes": 22937200,
    },
    "seconds": {"forward": 0.008, "step": 0.031, "total": 6.2, "at_most": 6.2},
    "parity": 1.2e-6,
    "flags": [],
}
UNSUPPORTED_PLAN: Document = {
    "schema_version": 1,
    "supported": False,
    "file": {"sha256": MODEL_SHA256, "size_bytes": 58903},
    "request": PLAN["request"],
    "operators": [{"operator": "Bend", "domain": "acme", "count": 2, "nodes": ["stage1/bend", "stage2/bend"]}],
    "coverage": {"weights_total": 14458, "weights_supported": 9440, "tensors_total": 8, "tensors_supported": 4},
    "faults": [
        {
            "what": "operator acme.Bend (opset 1) is not supported",
            "where": "nodes stage1/bend, stage2/bend",
            "expected": "an operator of docs/onnx_operators.md",
            "got": "acme.Bend in 2 nodes",
            "advice": "the domain 'acme' is not ONNX's: include the operator as a local function or export without it",
        }
    ],
}
INSPECTION_REQUEST: Document = {"model": {"uri": f"artifact:sha256:{MODEL_SHA256}", "format": "onnx"}}
INSPECTION: Document = {
    "schema_version": 1,
    "file": {"sha256": MODEL_SHA256, "size_bytes": 61234},
    "format": "onnx",
    "producer": "pytorch 2.13.0",
    "opsets": {"ai.onnx": 20},
    "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 8, 8], "optional": False}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": [2, 10], "optional": False}],
    "coverage": {"weights_total": 650, "weights_supported": 650, "tensors_total": 2, "tensors_supported": 2},
    "components": [
        {"component": "linear", "tensors": 1, "weights": 640},
        {"component": "bias", "tensors": 1, "weights": 10},
    ],
    "modules": [{"name": "fc", "tensors": 2, "weights": 650, "component": "linear", "depth": 0.0}],
    "tensors": [
        {
            "name": "fc.weight",
            "role": "weight",
            "module": "fc",
            "component": "linear",
            "depth": 0.0,
            "stored": "float32",
            "shape": [10, 64],
            "elements": 640,
        }
    ],
    "operators": [{"operator": "Flatten", "count": 1}, {"operator": "Gemm", "count": 1}],
    "parity": {"difference": 3e-7, "examples": 2, "example": "made_up", "reason": None},
    "scan": [{"what": "nodes in the main graph", "found": "2"}],
    "missing": [],
    "unsupported": [],
    "refusals": [],
}

UPLOAD_ID = "5e0c" * 8
REPR_DIGEST = "sha-256=:nzyfPJ88nzyfPJ88nzyfPJ88nzyfPJ88nzyfPJ88nzw=:"
UPLOAD: Document = {
    "id": UPLOAD_ID,
    "url": f"/v1/uploads/{UPLOAD_ID}",
    "length_bytes": 61234,
    "offset_bytes": 0,
    "artifact": None,
}
STORED_BEFORE: Document = UPLOAD | {"id": None, "url": None, "offset_bytes": 61234, "artifact": ARTIFACT}
DELIVERIES: Document = {
    "schema_version": 1,
    "url": "https://ci.example.org/faultline",
    "events": ["succeeded", "failed"],
    "state": "delivered",
    "next_at": None,
    "attempts": [
        {"attempt": 1, "at": "2026-01-31T12:00:22Z", "status": 503, "error": None, "seconds": 0.08},
        {"attempt": 2, "at": "2026-01-31T12:00:27Z", "status": 204, "error": None, "seconds": 0.05},
    ],
}
WEBHOOK_SECRET: Document = {"schema_version": 1, "secrets": ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDYvBwzyIvXuE="]}
