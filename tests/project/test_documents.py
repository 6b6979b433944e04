import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.tree import PACKAGES, ROOT, list_files, list_package_files, list_python_files, parse, show
from worker.engine.flags import FLAGS

DOCUMENTS = [path for path in list_files() if path.suffix == ".md"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
WORST_CASE = re.compile(r"worst[- ]case", re.IGNORECASE)
SECTION = re.compile(r"\bmethod(?:\.md)?,? sections? (\d+)")
QUOTED = re.compile(r'"[^"\n]*"')
# Joined here so that this file does not name a host either.
REGISTRIES = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org/whl"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
    ]
]


def test_links_between_documents_lead_somewhere() -> None:
    lost = [
        f"{show(path)}: {target}"
        for path in DOCUMENTS
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target.split("#")[0]).exists()
    ]
    assert lost == []


def test_no_file_names_a_registry() -> None:
    texts = [path for path in list_files() if path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ""}]
    named = [f"{show(path)}: {host}" for path in texts for host in REGISTRIES if host in path.read_text(encoding="utf-8")]
    assert named == []


def test_the_flags_page_describes_exactly_the_flags_that_exist() -> None:
    sections = read_flag_sections()
    assert sections.keys() == FLAGS.keys()
    for code, text in sections.items():
        assert f"Severity: {FLAGS[code][0]}\n" in text, code
        for part in ("**Raised if** ", "**Means** ", "**What to do**: "):
            assert text.count(part) == 1, f"{code}: {part}"


def test_sections_of_the_method_that_code_refers_to_exist() -> None:
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    existing = set(re.findall(r"^## (\d+)\. ", text, re.MULTILINE))
    files = [path for path in list_python_files() if path.parent != Path(__file__).parent]
    referred = {number for path in files for number in SECTION.findall(path.read_text(encoding="utf-8"))}
    assert referred
    assert referred <= existing


@pytest.mark.parametrize("record", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_record_is_short_and_complete(record: Path) -> None:
    lines = record.read_text(encoding="utf-8").splitlines()
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert len(lines) <= 50
    assert lines[0].startswith(f"# {int(record.name[:4])}. ")
    assert headings == ["Context", "Decision", "Consequences", "Alternatives", "Check"]


def test_decision_records_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_documents_never_promise_the_worst_case() -> None:
    pages = [path for path in DOCUMENTS if "lower-bounds" not in path.name]
    said = [show(path) for path in pages if WORST_CASE.search(QUOTED.sub("", path.read_text(encoding="utf-8")))]
    assert said == []


def test_messages_never_promise_the_worst_case() -> None:
    files = [path for package in PACKAGES for path in list_package_files(package)]
    said = [f"{show(path)}:{line}" for path in files for line, text in find_messages(path) if WORST_CASE.search(text)]
    assert said == []


def read_flag_sections() -> dict[str, str]:
    parts = re.split(r"^## (\S+)$", (ROOT / "docs/flags.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def find_messages(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of the string constants of a file that are not docstrings."""
    tree = parse(path)
    documenting = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documenting:
            yield node.lineno, node.value
