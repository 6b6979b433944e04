"""Policies that lie in files of their own: a request may name one as it names its model."""

import json
from typing import Final

from schemas.errors import Fault, InvalidRequest
from schemas.policy import Policy
from schemas.validation import check_document

MAX_POLICY_BYTES: Final = 2**20


def parse_policy(content: bytes) -> Policy:
    """Return the policy in a JSON file.

    Raises:
        InvalidRequest: with every fault of the file.

    """
    expected, advice = f"a policy as JSON, of at most {MAX_POLICY_BYTES} bytes", "docs/contract.md describes policies."
    if len(content) > MAX_POLICY_BYTES:
        raise InvalidRequest(Fault("the policy is too large", "", expected, f"{len(content)} bytes", advice))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidRequest(Fault("the policy's file is not JSON", "", expected, "something else", advice)) from None
    return check_document(Policy, document)


def describe_faults(error: InvalidRequest, where: str) -> tuple[Fault, ...]:
    """Return the faults of a policy's file as faults of the reference to it."""
    return tuple(
        Fault(f"{fault.what} (at {fault.where or '/'} of the policy)", where, fault.expected, fault.got, fault.advice)
        for fault in error.faults
    )
