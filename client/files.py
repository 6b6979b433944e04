"""Reads what the command line names: YAML and JSON documents, policies, reports, and the digests of artifacts."""

import hashlib
import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel

from client.errors import BadUsage
from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Fault, InvalidRequest
from schemas.policy import Policy
from schemas.report import Report
from schemas.validation import check_document

MAX_DOCUMENT_BYTES = 64 * 2**20
CORRECT = "Correct the file."

ModelT = TypeVar("ModelT", bound=BaseModel)


class LoadedReport(NamedTuple):
    """A report, the digest of its canonical bytes, and the document as it was read."""

    report: Report
    sha256: str
    content: dict[str, Any]


def hash_file(path: Path) -> str:
    """Return the sha-256 of a file.

    Raises:
        BadUsage: when it cannot be read.

    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadUsage(describe_unreadable(path, error)) from error


def load_document(path: Path) -> Any:
    """Return what a YAML or JSON file says; a key that is given twice is an error in both.

    Raises:
        BadUsage: when the file cannot be read or parsed.

    """
    text = _read_text(path)
    if path.suffix.lower() == ".json":
        return _parse_json(path, text)
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derived from the safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        got = str(getattr(error, "problem", None) or error)
        raise BadUsage(Fault("the file is not YAML", where, "a YAML or JSON document", got, CORRECT)) from error


def load_policy(path: Path) -> Policy:
    """Return the policy in a YAML or JSON file.

    Raises:
        BadUsage: with every fault of the file.

    """
    return check_file(Policy, load_document(path), path)


def load_report(path: Path) -> LoadedReport:
    """Return the report in a JSON file, however it is indented.

    Raises:
        BadUsage: when the file holds no report.

    """
    content = _parse_json(path, _read_text(path))
    report = check_file(Report, content, path)
    return LoadedReport(report, compute_sha256(canonical_bytes(content)), content)


def check_file(model: type[ModelT], document: object, path: Path) -> ModelT:
    """Return a file's document as `model`.

    Raises:
        BadUsage: with every fault, each named by file and JSON pointer.

    """
    try:
        return check_document(model, document)
    except InvalidRequest as error:
        faults = (Fault(one.what, f"{path}#{one.where}", one.expected, one.got, one.advice) for one in error.faults)
        raise BadUsage(*faults) from error


def describe_unreadable(path: Path, error: OSError) -> Fault:
    """Return the fault of a file that cannot be read."""
    reason = error.strerror or type(error).__name__
    return Fault(f"{path} cannot be read", str(path), "a readable file", reason, "Check the path and its permissions.")


def check_writable(path: Path | None) -> None:
    """Check that a file can be written there, before anything long is done for it.

    Raises:
        BadUsage: when its folder is not there or does not take files.

    """
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        expected = "a folder that takes files"
        raise BadUsage(
            Fault(f"{path} cannot be written", str(path), expected, str(path.parent), "Make the folder, or name another.")
        )


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            expected = f"at most {MAX_DOCUMENT_BYTES} bytes"
            raise BadUsage(
                Fault(f"{path} is too large", str(path), expected, f"{path.stat().st_size} bytes", "Name another file.")
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadUsage(describe_unreadable(path, error)) from error
    except UnicodeDecodeError as error:
        raise BadUsage(Fault(f"{path} is no text", str(path), "UTF-8", error.reason, "Name another file.")) from error


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_twice, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        where = f"{path}:{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else str(path)
        got = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadUsage(Fault("the file is not JSON", where, "a JSON document", got, CORRECT)) from error


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"the key {twice!r} is given twice"
        raise ValueError(message)
    return content


def _refuse_constant(name: str) -> Any:
    message = f"{name} is no JSON number"
    raise ValueError(message)


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        """Return the mapping."""
        seen = set()
        for key in (key_node for key_node, _ in node.value if isinstance(key_node, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
