"""Everything that would make a worker reach into its own network: each form as a reference, and as a redirect's target."""

import socket
from pathlib import Path

import pytest

from schemas.errors import FetchError, FetchFailed, FetchRefused
from tests.worker.fetching.servers import SITE_ADDRESS, Names, Page, Site, make_limits
from worker.fetching.patience import Patience
from worker.fetching.web import Web

LITERALS = {
    "loopback": "127.0.0.1",
    "another loopback": "127.8.8.8",
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "octal in one": "017700000001",
    "hexadecimal": "0x7f000001",
    "hexadecimal parts": "0x7f.0x0.0x0.0x1",
    "short": "127.1",
    "shorter": "127.0.1",
    "zero": "0",
    "unspecified": "0.0.0.0",
    "leading zeros": "127.000.000.001",
    "too large": "127.0.0.257",
    "trailing dot": "127.0.0.1.",
    "private 10": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 192": "192.168.0.1",
    "shared": "100.64.0.1",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata of another cloud": "100.100.100.200",
    "a cloud's wire": "168.63.129.16",
    "broadcast": "255.255.255.255",
    "multicast": "224.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarking": "198.18.0.1",
    "IPv6 loopback": "[::1]",
    "IPv6 unspecified": "[::]",
    "mapped": "[::ffff:127.0.0.1]",
    "mapped in hexadecimal": "[::ffff:7f00:1]",
    "mapped written out": "[0:0:0:0:0:ffff:7f00:0001]",
    "compatible": "[::127.0.0.1]",
    "translated": "[64:ff9b::127.0.0.1]",
    "translated locally": "[64:ff9b:1::127.0.0.1]",
    "6to4": "[2002:7f00:1::]",
    "Teredo": "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "IPv6 link-local": "[fe80::1]",
    "link-local with a zone": "[fe80::1%25lo]",
    "zone unescaped": "[fe80::1%lo]",
    "loopback with a zone": "[::1%251]",
    "unique local": "[fd00:ec2::254]",
    "site-local": "[fec0::1]",
    "IPv6 multicast": "[ff02::1]",
    "IPv6 documentation": "[2001:db8::1]",
    "two addresses": "[::1]127.0.0.1",
    "no bracket": "::1",
}
NAMES = {
    "a name that is inside": "inside.test",
    "localhost": "localhost",
    "localhost with a dot": "localhost.",
    "capitals": "LOCALHOST",
    "an alias to inside": "alias.test",
    "a long chain of aliases": "chain.test",
    "mixed answers": "mixed.test",
    "mixed answers, the private one last": "mixed-last.test",
    "mixed families": "mixed-families.test",
    "a mapped answer": "mapped.test",
    "an answer with a zone": "zone.test",
    "no answer": "empty.test",
    "garbled answer": "garbled.test",
    "unicode digits": "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
    "full-width digits": "\uff11\uff12\uff17.0.0.1",
    "unicode dots": "127\u30020\uff0e0\uff611",
    "punycode of digits": "xn--127-001.",
    "percent-encoded": "127%2e0%2e0%2e1",
    "encoded letters": "%6c%6f%63%61%6c%68%6f%73%74",
    "user": "models.test@127.0.0.1",
    "user and password": "a:b@127.0.0.1",
    "empty user": "@127.0.0.1",
    "two at signs": "models.test@x@127.0.0.1",
    "user by backslash": "127.0.0.1\\@models.test",
    "backslash": "models.test\\.127.0.0.1",
    "host behind a fragment": "127.0.0.1#models.test",
    "line break": "models.test\r\nHost: inside",
    "tab": "127.0.\t0.1",
    "space": "127.0.0.1 ",
    "null": "127.0.0.1\0.test",
    "underscored bracket": "[v1.127]",
    "nothing": "",
}
TABLE: dict[str, str | list[str]] = {
    "models.test": [SITE_ADDRESS],
    "inside.test": ["127.0.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "alias.test": "inside.test",
    "chain.test": "chain-1.test",
    "chain-1.test": "chain-2.test",
    "chain-2.test": "alias.test",
    "mixed.test": ["127.0.0.1", SITE_ADDRESS],
    "mixed-last.test": [SITE_ADDRESS, "9.9.9.9", "10.0.0.1"],
    "mixed-families.test": [SITE_ADDRESS, "::1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "zone.test": ["fe80::1%lo"],
    "empty.test": [],
    "garbled.test": ["127.0.0.1.5"],
}
FORMS = LITERALS | NAMES


@pytest.fixture
def names() -> Names:
    return Names(TABLE)


@pytest.fixture(scope="module")
def shared_web(both_sites: tuple[Site, Site], ca_file: Path) -> Web:
    return Web(make_limits(both_sites[0], fetch_http=True), ca_file)


@pytest.fixture
def web(shared_web: Web, names: Names) -> Web:
    shared_web._resolve = names
    return shared_web


def fetch(web: Web, url: str) -> bytes:
    with web.get(url, Patience(10, 2)) as answer:
        return b"".join(answer.read_chunks())


def test_there_are_enough_forms() -> None:
    assert len(FORMS) >= 30
    assert len(set(FORMS.values())) == len(FORMS)


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", FORMS.values(), ids=FORMS)
def test_a_reference_never_reaches_inside(host: str, scheme: str, web: Web, site: Site, inside: Site) -> None:
    inside.pages["/secret"] = Page(b"secret")
    with pytest.raises(FetchError) as refused:
        fetch(web, site.url("/secret", host, scheme))
    assert refused.value.faults
    assert inside.connections == 0


@pytest.mark.parametrize("host", FORMS.values(), ids=FORMS)
def test_a_redirect_never_reaches_inside(host: str, web: Web, site: Site, inside: Site) -> None:
    inside.pages["/secret"] = Page(b"secret")
    location = "".join(one if one not in "\r\n\0" else " " for one in site.url("/secret", host))
    site.pages["/model.onnx"] = Page(status=302, headers={"location": location.encode().decode("latin-1")})
    with pytest.raises(FetchError):
        fetch(web, site.url())
    assert len(site.requests) == 1
    assert inside.connections == 0


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("//127.0.0.1:{port}/secret", 301),
        ("http://127.0.0.1:{port}/secret", 302),
        ("http://models.test:{port}/secret", 307),
        ("file:///etc/passwd", 302),
        ("gopher://127.0.0.1:{port}/", 303),
        ("ftp://models.test/", 308),
        ("data:text/plain,secret", 302),
        ("https://models.test:22/", 302),
        ("https://models.test:0/", 302),
        ("https://models.test:99999/", 302),
        ("https://models.test:/secret", 302),
        ("", 302),
    ],
)
def test_a_redirect_keeps_to_the_web_and_to_the_ports(location: str, status: int, web: Web, site: Site, inside: Site) -> None:
    site.pages["/model.onnx"] = Page(status=status, headers={"location": location.format(port=site.port)})
    with pytest.raises(FetchRefused):
        fetch(web, site.url())
    assert len(site.requests) == 1
    assert inside.connections == 0


def test_what_was_checked_is_what_is_dialled_when_the_name_changes_its_answer(
    web: Web, site: Site, inside: Site, names: Names
) -> None:
    site.pages["/model.onnx"] = Page(b"model")
    answers = [[SITE_ADDRESS], ["127.0.0.1"], ["127.0.0.1"]]
    names.table.clear()

    def resolve(host: str) -> list[str]:
        names.asked.append(host)
        return answers.pop(0)

    web._resolve = resolve
    assert fetch(web, site.url()) == b"model"
    assert names.asked == ["models.test"]
    with pytest.raises(FetchRefused, match="not public"):
        fetch(web, site.url())
    assert inside.connections == 0


def test_a_name_that_changes_its_answer_during_a_redirect_is_checked_again(web: Web, site: Site, inside: Site) -> None:
    site.pages["/model.onnx"] = Page(status=302, headers={"location": "/again"})
    answers = [[SITE_ADDRESS], ["127.0.0.1"]]
    web._resolve = lambda _: answers.pop(0)
    with pytest.raises(FetchRefused, match="not public"):
        fetch(web, site.url())
    assert answers == []
    assert inside.connections == 0


def test_redirects_end(web: Web, site: Site) -> None:
    site.pages["/model.onnx"] = Page(status=302, headers={"location": "/model.onnx"})
    with pytest.raises(FetchRefused, match="redirected too often"):
        fetch(web, site.url())
    assert len(site.requests) == 6


def test_a_huge_location_is_refused(web: Web, site: Site) -> None:
    site.pages["/model.onnx"] = Page(status=302, headers={"location": site.url("/" + "a" * 60_000)})
    with pytest.raises(FetchRefused, match="2048 characters"):
        fetch(web, site.url())


def test_no_proxy_and_no_credential_of_the_environment_takes_part(
    web: Web, site: Site, inside: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{inside.port}")
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    site.pages["/model.onnx"] = Page(status=302, headers={"location": "/there", "set-cookie": "session=1"})
    site.pages["/there"] = Page(b"model")
    assert fetch(web, site.url()) == b"model"
    sent = [set(headers) for _, _, headers, _ in site.requests]
    assert sent == [{"host", "user-agent", "accept", "accept-encoding", "connection"}] * 2
    assert inside.connections == 0


def test_only_listed_hosts_are_reached_when_there_is_a_list(site: Site, ca_file: Path, names: Names) -> None:
    site.pages["/model.onnx"] = Page(b"model")
    names.table["evil-models.test"] = [SITE_ADDRESS]
    web = Web(make_limits(site, fetch_hosts="other.test, *.models.test models.test"), ca_file, names)
    assert fetch(web, site.url()) == b"model"
    for host in ("evil-models.test", "models.test.evil.test", "test"):
        with pytest.raises(FetchRefused, match="not one that is fetched from"):
            fetch(web, site.url(host=host))


def test_plain_http_and_other_ports_need_the_operators_word(site: Site, ca_file: Path, names: Names) -> None:
    closed = Web(make_limits(ca_file=ca_file), ca_file, names)
    with pytest.raises(FetchRefused, match="is not dialled"):
        fetch(closed, site.url())
    with pytest.raises(FetchRefused):
        fetch(Web(make_limits(site), ca_file, names), site.url(scheme="http"))
    assert site.connections == 0


def test_a_name_nobody_knows_is_told_as_such(web: Web, site: Site) -> None:
    with pytest.raises(FetchFailed, match="no such host"):
        fetch(web, site.url(host="unknown.test"))


def test_addresses_inside_are_not_told_to_the_caller(web: Web, site: Site) -> None:
    with pytest.raises(FetchRefused) as refused:
        fetch(web, site.url(host="mixed-last.test"))
    assert "10.0.0.1" not in str(refused.value.faults)


def test_the_systems_resolver_is_the_one_that_is_used(site: Site, ca_file: Path, inside: Site) -> None:
    with pytest.raises(FetchRefused, match="not public"):
        fetch(Web(make_limits(site), ca_file), site.url(host="localhost"))
    assert inside.connections == 0
    assert socket.gethostbyname("localhost").startswith("127.")
