"""The project's own files, as the tests of this folder see them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PACKAGES = ("schemas", "gate", "storage", "telemetry", "service", "worker", "client", "standalone")
YARDSTICK = ROOT / "benchmarks" / "straightforward.py"


@cache
def list_files() -> tuple[Path, ...]:
    """Return every file that is or would be in the repository: tracked, or new and not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return tuple(path for name in sorted(listed.split("\0")) if name and (path := ROOT / name).is_file())


def list_python_files() -> list[Path]:
    """Return our own Python files; the yardstick is not ours to change."""
    return [path for path in list_files() if path.suffix == ".py" and path != YARDSTICK]


def list_package_files(package: str) -> list[Path]:
    """Return the Python files of one top-level package."""
    return [path for path in list_python_files() if path.relative_to(ROOT).parts[0] == package]


@cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def show(path: Path) -> str:
    """Return a path as a reader of the repository writes it."""
    return str(path.relative_to(ROOT))


def walk_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a file, methods and inner functions included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
