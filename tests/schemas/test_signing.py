import base64

import pytest

from schemas.signing import PREFIX, derive_secret, is_signed, read_secret, sign

# The example of the Standard Webhooks specification.
SECRET = "whsec_plJ3nmyCDGBKInavdOK15jsl"
ID, TIMESTAMP = "msg_loFOjxBNrRLzqYUf", 1731705121
BODY = b'{"event_type":"ping","data":{"success":true}}'
SIGNATURE = "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


def test_a_signature_is_that_of_the_specification() -> None:
    assert sign(SECRET, ID, TIMESTAMP, BODY) == SIGNATURE
    assert is_signed(SECRET, ID, TIMESTAMP, BODY, f"v1a,other {SIGNATURE}")


@pytest.mark.parametrize("signatures", ["", SIGNATURE[:-1], SIGNATURE.replace("v1,", ""), SIGNATURE.lower(), "v1,"])
def test_any_other_is_none(signatures: str) -> None:
    assert not is_signed(SECRET, ID, TIMESTAMP, BODY, signatures)


def test_every_part_of_the_message_is_signed() -> None:
    for change in ((SECRET, ID, TIMESTAMP + 1, BODY), (SECRET, ID + "x", TIMESTAMP, BODY), (SECRET, ID, TIMESTAMP, BODY + b" ")):
        assert not is_signed(*change, SIGNATURE)


def test_a_tenants_secret_is_its_own() -> None:
    operators = PREFIX + base64.b64encode(bytes(range(32))).decode()
    secrets = {derive_secret(operators, tenant) for tenant in ("a", "b", "")}
    assert len(secrets) == 3
    assert all(len(read_secret(secret)) == 32 for secret in secrets)
    assert operators not in secrets


@pytest.mark.parametrize("text", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_?", base64.b64encode(bytes(32)).decode()])
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="random bytes"):
        read_secret(text)
