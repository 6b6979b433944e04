"""Every flag is raised by a model in some test of the worker."""

import ast

from tests.project.tree import list_package_files, parse, show
from worker.engine.flags import FLAGS


def find_codes(node: ast.AST) -> set[str]:
    """Return the flags that a piece of a test names."""
    texts = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)}
    return FLAGS.keys() & texts


def test_every_flag_has_a_test_that_names_it() -> None:
    files = [path for path in list_package_files("tests") if show(path).startswith("tests/worker/")]
    functions = [node for path in files for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
    tests = [node for node in functions if node.name.startswith("test_")]
    named = set[str]().union(*(find_codes(test) for test in tests))
    assert FLAGS.keys() - named == set()
