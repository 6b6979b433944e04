"""Example documents of keys and the audit log; a test reads each through its contract."""

from service.openapi.examples import AUDIT_ID, Document

KEY_ID = "6gk2m4p8qr0s3tv5"
NEW_KEY: Document = {"label": "ci", "scopes": ["read", "submit"], "tenant": "acme", "expires_in_s": 7776000}
KEY_ROTATION: Document = {"overlap_s": 86400}
KEY_INFO: Document = {
    "id": KEY_ID,
    "tenant": "acme",
    "label": "ci",
    "scopes": ["read", "submit"],
    "state": "live",
    "created_at": "2026-01-31T12:00:00Z",
    "created_by": "6gk2m000000s3tv5",
    "expires_at": "2026-05-01T12:00:00Z",
    "revoked_at": None,
    "last_used_at": "2026-02-02T09:30:00Z",
}
REVOKED_KEY: Document = KEY_INFO | {"state": "revoked", "revoked_at": "2026-02-03T08:00:00Z"}
MADE_KEY: Document = {"key": f"fl_{KEY_ID}_{'0123456789abcdef' * 4}", "info": KEY_INFO | {"last_used_at": None}}
KEY_PAGE: Document = {"items": [KEY_INFO], "next": None}
TRAIL_PAGE: Document = {
    "items": [
        {
            "id": "1769860800000-0",
            "at": "2026-01-31T12:00:00Z",
            "tenant": "acme",
            "key_id": KEY_ID,
            "action": "POST /v1/audits",
            "target": f"/v1/audits/{AUDIT_ID}",
            "status": 202,
            "request_id": "3f0c6c1e5a0b4f559d530f7f6f6f2b1a",
            "client": "192.0.2.7",
        }
    ],
    "next": "1769860800000-0",
}
