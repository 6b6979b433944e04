"""References are read in one way or not at all, and files count by their content wherever they lie."""

import pytest
from pydantic import ValidationError

from schemas.kinds import compute_request_digest, find_known, settle_files
from schemas.references import MAX_URI, Place, Reference, read_place, show_place
from schemas.request import AuditRequest, echo_request

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        (f"artifact:sha256:{A}", Place("artifact", A)),
        ("https://example.org", Place("https", "example.org", "/", 443)),
        ("https://Example.ORG:8443?a=b", Place("https", "example.org", "/?a=b", 8443)),
        ("http://xn--bcher-kva.example/a%20b?c#d".partition("#")[0], Place("http", "xn--bcher-kva.example", "/a%20b?c", 80)),
        ("https://9.9.9.9/m", Place("https", "9.9.9.9", "/m", 443)),
        ("https://[2620:fe::FE]:443/m", Place("https", "2620:fe::fe", "/m", 443)),
        ("https://a_b.example.org/", Place("https", "a_b.example.org", "/", 443)),
        ("s3://a-bucket/a%20b/c", Place("s3", "a-bucket", "a b/c")),
        ("file:///a/b%20c", Place("file", "", "/a/b c")),
        ("file:/a", Place("file", "", "/a")),
    ],
)
def test_a_place_is_what_the_uri_says(uri: str, place: Place) -> None:
    assert read_place(uri) == place
    assert Reference(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "model.onnx",
        "ftp://example.org/m",
        "HTTPS://example.org/m",
        "https:example.org",
        "https:///m",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:65536/",
        "https://example.org:080/",
        "https://example.org:/",
        "https://-a.example/",
        "https://a..b/",
        "https://a./",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 126}aa/",
        "https://example.org/%zz",
        "https://example.org/a b",
        "https://example.org/ü",
        f"https://example.org/{'a' * MAX_URI}",
        f"artifact:sha256:{A[:-1]}",
        f"artifact:md5:{A}",
        f"artifact:sha256:{A}\n",
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_place(uri)
    with pytest.raises(ValidationError):
        Reference(uri=uri)


def test_a_pin_beside_an_artifact_must_be_its_digest() -> None:
    assert Reference(uri=f"artifact:sha256:{A}", sha256=A).sha256 == A
    assert Reference(uri="https://example.org/m", sha256=B).sha256 == B
    with pytest.raises(ValidationError, match="must be the same digest"):
        Reference(uri=f"artifact:sha256:{A}", sha256=B)


def test_what_is_shown_holds_no_query() -> None:
    assert show_place("https://example.org/m?X-Amz-Signature=1") == "https://example.org/m?..."
    assert show_place("s3://bucket/m") == "s3://bucket/m"


def build(model: dict[str, str], data: dict[str, str]) -> AuditRequest:
    return AuditRequest.model_validate({"model": model, "data": data})


def test_equal_contents_are_equal_requests_wherever_they_lie() -> None:
    uploaded = build({"uri": f"artifact:sha256:{A}"}, {"uri": f"artifact:sha256:{B}"})
    pinned = build({"uri": "https://example.org/m?token=1", "sha256": A}, {"uri": "s3://bucket/d", "sha256": B})
    redundant = build({"uri": f"artifact:sha256:{A}", "sha256": A}, {"uri": f"artifact:sha256:{B}"})
    digests = {compute_request_digest(request, "1") for request in (uploaded, pinned, redundant)}
    assert len(digests) == 1
    fetched = build({"uri": "https://example.org/m"}, {"uri": "file:///d"})
    assert compute_request_digest(fetched, "1") not in digests
    settled = settle_files(fetched, {"model": A, "data": B})
    assert compute_request_digest(settled, "1") in digests
    assert echo_request(settled) == echo_request(uploaded)
    assert fetched.model.uri == "https://example.org/m"


def test_a_file_that_is_not_known_equals_nothing() -> None:
    places = [{"uri": "https://example.org/m"}, {"uri": "https://example.org/m?v=2"}, {"uri": "file:///m"}]
    requests = [build(place, {"uri": f"artifact:sha256:{B}"}) for place in places]
    assert [find_known(request) for request in requests] == [{"data": B}] * 3
    assert len({compute_request_digest(request, "1") for request in requests}) == 3
