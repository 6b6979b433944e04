"""The operator's settings of what may be fetched, as far as spelling tells; addresses in storage/sources/addresses.py."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.sources.addresses import is_allowed, is_public, read_networks
from storage.sources.rules import SourceRules


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fetch_roots", "models"),
        ("fetch_roots", "/"),
        ("fetch_roots", "/models/../etc"),
        ("fetch_s3", "bucket/"),
        ("fetch_s3", "s3://bucket"),
        ("fetch_s3", "s3://bucket/models"),
        ("fetch_hosts", "https://example.org"),
        ("fetch_hosts", "*"),
        ("fetch_hosts", "a.*.example"),
        ("fetch_ports", "https"),
        ("fetch_ports", "0"),
        ("fetch_private_networks", "10.0.0.1/8"),
        ("fetch_private_networks", "inside"),
        ("fetch_https", "sometimes"),
    ],
)
def test_a_setting_that_means_nothing_stops_the_start(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        SourceRules.model_validate({name: value})


@pytest.mark.parametrize(
    ("uri", "settings", "what"),
    [
        ("https://example.org/m", {}, None),
        ("https://example.org/m", {"fetch_https": "off"}, "not fetched from the web"),
        ("https://example.org/m", {"fetch_https": "pinned"}, "needs its digest"),
        ("http://example.org/m", {}, "http: is not fetched"),
        ("http://example.org/m", {"fetch_http": True}, None),
        ("http://example.org/m", {"fetch_http": True, "fetch_https": "off"}, "not fetched from the web"),
        ("https://example.org:80/m", {}, "port 80"),
        ("https://example.org:8443/m", {"fetch_ports": "443, 8443"}, None),
        ("https://example.org/m", {"fetch_ports": "8443"}, "port 443"),
        ("https://example.org/m", {"fetch_hosts": "*.example.org"}, "not one that"),
        ("https://a.example.org/m", {"fetch_hosts": "*.example.org"}, None),
        ("https://aexample.org/m", {"fetch_hosts": "*.example.org"}, "not one that"),
        ("https://10.1.2.3/m", {}, "not public"),
        ("https://10.1.2.3/m", {"fetch_private_networks": "10.1.0.0/16"}, None),
        ("https://10.2.2.3/m", {"fetch_private_networks": "10.1.0.0/16 fd00::/8"}, "not public"),
        ("https://[fd00::1]/m", {"fetch_private_networks": "10.1.0.0/16,fd00::/8"}, None),
        ("file:///models/m", {}, "not enabled"),
        ("file:///models/m", {"fetch_roots": "/data /models"}, None),
        ("file:///models-2/m", {"fetch_roots": "/models"}, "in no folder"),
        ("file:///models/of-me/m", {"fetch_roots": "/models/of-{tenant}"}, None),
        ("file:///models/of-you/m", {"fetch_roots": "/models/of-{tenant}"}, "in no folder"),
        ("s3://bucket/m", {}, "not enabled"),
        ("s3://bucket/a/m", {"fetch_s3": "s3://bucket/a/"}, None),
        ("s3://bucket/ab/m", {"fetch_s3": "s3://bucket/a/"}, "under no prefix"),
        ("s3://bucket/me/m", {"fetch_s3": "s3://bucket/{tenant}/"}, None),
        ("nonsense", {}, "a URI begins with"),
    ],
)
def test_what_is_allowed_is_what_the_operator_says(uri: str, settings: dict[str, object], what: str | None) -> None:
    fault = SourceRules.model_validate(settings).find_fault(uri, "me", pinned=False)
    assert (fault is None) == (what is None)
    if fault is not None and what is not None:
        assert what in fault.what
        assert fault.advice


def test_a_pin_is_enough_where_pins_are_asked_for() -> None:
    assert SourceRules(fetch_https="pinned").find_fault("https://example.org/m", "me", pinned=True) is None


@given(st.ip_addresses())
def test_no_address_that_python_calls_private_is_public(address: object) -> None:
    found = ip_address(str(address))
    if is_public(found):
        assert not (found.is_private)
        assert not (found.is_loopback)
        assert not (found.is_link_local)
        assert not (found.is_multicast)
        assert not (found.is_unspecified)


@given(st.ip_addresses(v=4))
def test_every_form_of_an_ipv4_address_is_judged_as_it(address: object) -> None:
    plain = ip_address(str(address))
    for form in (f"::ffff:{plain}", f"64:ff9b::{plain}"):
        assert is_public(ip_address(form)) == is_public(plain)
        assert is_allowed(ip_address(form), (ip_network(f"{plain}/32"),))
    number = int(plain)
    for tunnel in (0x2002 << 112 | number << 80, 0x20010000 << 96 | number ^ 0xFFFFFFFF, number):
        assert not is_public(ip_address(tunnel.to_bytes(16, "big")))


def test_public_addresses_are_public() -> None:
    for text in ("9.9.9.9", "1.1.1.1", "172.32.0.1", "192.169.0.1", "2620:fe::fe", "2a00:1450:4001::1", "2001:4860::8888"):
        assert is_public(ip_address(text))
    assert read_networks("") == ()
