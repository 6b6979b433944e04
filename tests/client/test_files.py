"""Documents on disk: YAML and JSON alike, nothing ambiguous, the place of every fault."""

import json
from datetime import date
from pathlib import Path

import pytest

from client.errors import BadUsage
from client.files import hash_file, load_document, load_policy, load_report
from schemas.base import canonical_bytes, compute_sha256
from tests.gate.reports import build_document

POLICY = {
    "name": "p",
    "conditions": [{"id": "a", "where": {"norm": "inf"}, "require": {"loss_change_at_most": 1e-4}}],
    "waivers": [{"condition": "a", "reason": "r", "owner": "o", "expires": "2027-01-31"}],
}
AS_YAML = """
name: p
conditions:
  - {id: a, where: {norm: .inf}, require: {loss_change_at_most: 1e-4}}
waivers:
  - {condition: a, reason: r, owner: o, expires: 2027-01-31}
"""


def test_a_policy_is_the_same_in_yaml_and_json(folder: Path) -> None:
    (folder / "p.json").write_text(json.dumps(POLICY, indent="\t"), encoding="utf-8")
    (folder / "p.yaml").write_text(AS_YAML, encoding="utf-8")
    assert load_policy(Path("p.json")) == load_policy(Path("p.yaml"))
    assert load_policy(Path("p.yaml")).waivers[0].expires == date(2027, 1, 31)


@pytest.mark.parametrize(
    ("name", "content", "where", "got"),
    [
        ("a.yaml", "a: 1\nb: [1\n", "a.yaml:3:1", "expected ',' or ']'"),
        ("a.yaml", "a: 1\na: 2\n", "a.yaml:2:1", "given twice"),
        ("a.yaml", "a: !!python/object/apply:os.system [ls]\n", "a.yaml:1:4", "could not determine a constructor"),
        ("a.json", '{"a": 1,}', "a.json:1:", ""),
        ("a.json", '{"a": 1, "a": 2}', "a.json", "given twice"),
        ("a.json", '{"a": NaN}', "a.json", "NaN is no JSON number"),
        ("a.json", "[" * 100_000, "a.json", ""),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(folder: Path, name: str, content: str, where: str, got: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(BadUsage) as caught:
        load_document(Path(name))
    [fault] = caught.value.faults
    assert fault.where.startswith(where)
    assert got in fault.got


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadUsage):
        load_document(Path("a.yaml"))


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_what_is_no_file_is_refused(folder: Path, name: str) -> None:
    for load in (load_document, hash_file):
        with pytest.raises(BadUsage):
            load(Path(name))


def test_a_report_s_digest_does_not_depend_on_its_indentation(folder: Path) -> None:
    document = build_document()
    (folder / "wide.json").write_text(json.dumps(document, indent=4), encoding="utf-8")
    (folder / "canonical.json").write_bytes(canonical_bytes(document))
    assert load_report(Path("wide.json")).sha256 == compute_sha256((folder / "canonical.json").read_bytes())
    assert load_report(Path("canonical.json")) == load_report(Path("wide.json"))


def test_a_report_of_a_later_program_keeps_its_digest(folder: Path) -> None:
    document = build_document() | {"added_later": 1}
    (folder / "r.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_report(Path("r.json")).sha256 == compute_sha256(canonical_bytes(document))


def test_what_is_no_report_is_refused_with_every_fault(folder: Path) -> None:
    document = build_document() | {"clean": {"loss": "low", "metrics": {}}, "flags": None}
    (folder / "r.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BadUsage) as caught:
        load_report(Path("r.json"))
    assert {fault.where for fault in caught.value.faults} == {"r.json#/clean/loss", "r.json#/flags"}


def test_hash_file_is_sha256(folder: Path) -> None:
    (folder / "abc").write_bytes(b"abc")
    assert hash_file(Path("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
