import ast
import hashlib
import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from tests.project.tree import ROOT, YARDSTICK, list_files, list_package_files, list_python_files, parse, show, walk_functions

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
ENGINE_BUDGETS = {
    "worker/engine": 3820,
    "worker/engine/data": 1700,
    "worker/engine/losses": 180,
    "worker/engine/models": 950,
    "worker/engine/models/aten": 1200,
    "worker/engine/models/fusion": 300,
    "worker/engine/models/onnx": 2000,
    "worker/engine/models/pt2": 1400,
    "worker/engine/models/torchscript": 1150,
}
"""Lines of code of the numerics, of the readers of data, and of each loader; decision 9 says what is not met and why."""
OPERATOR_TABLES = ("worker/engine/models/onnx/operators", "worker/engine/models/aten/operators")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
YARDSTICK_SHA256 = "523bbcfffc124f6596cf03cee5779bad33d0208fbcc52d9c43e14e894ba8809e"
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".lua", ".json", ".sh", ".svg", ""}
# Split so that this file does not hold what it looks for.
UNFINISHED = re.compile("TO" + r"DO|FIX" + "ME|XX" + "X")
MACHINE_PATHS = re.compile("/(home|Users|root|" + r"work)/\w")
CHECKING_CALLS = re.compile(r"^(assert_|check_|expect_|raises$|warns$|fail$|run_state_machine_as_test$)")


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def count_code_lines(path: Path) -> int:
    """Count the lines that hold code: no blanks, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def list_texts() -> list[Path]:
    return [path for path in list_files() if path.suffix in TEXT]


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    assert {show(path): lines for path in list_python_files() if (lines := count_lines(path)) > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{show(path)}:{node.name}": lines
        for path in list_python_files()
        for node in walk_functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


@pytest.mark.parametrize(("part", "budget"), ENGINE_BUDGETS.items())
def test_each_part_of_the_engine_stays_small(part: str, budget: int) -> None:
    inner = [other for other in (*ENGINE_BUDGETS, *OPERATOR_TABLES) if other.startswith(f"{part}/")]
    names = [show(path) for path in list_package_files("worker") if show(path).startswith(f"{part}/")]
    own = [name for name in names if not any(name.startswith(f"{other}/") for other in inner)]
    assert sum(count_code_lines(ROOT / name) for name in own) < budget


def test_lines_of_code_are_those_that_do_something(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    code = ["X = (  # here", "    1,", ")", "def f():", '    return """a', 'b"""']
    about = ['"""About."""', "", "# Why."]
    says = ['    """Say.', "", "    More.", '    """']
    path.write_text("\n".join([*about, *code[:4], *says, *code[4:], ""]))
    assert count_code_lines(path) == len(code)


def test_module_names_say_what_is_inside() -> None:
    named = [(path, part) for path in list_python_files() for part in path.relative_to(ROOT).with_suffix("").parts]
    assert [show(path) for path, part in named if EMPTY_WORDS & set(part.split("_"))] == []


def test_nothing_is_left_unfinished() -> None:
    assert [show(path) for path in list_texts() if UNFINISHED.search(path.read_text(encoding="utf-8"))] == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    assert [show(path) for path in list_texts() if MACHINE_PATHS.search(path.read_text(encoding="utf-8"))] == []


def test_the_yardstick_is_the_one_that_was_given() -> None:
    assert hashlib.sha256(YARDSTICK.read_bytes()).hexdigest() == YARDSTICK_SHA256


def test_every_test_checks_something() -> None:
    tests = [
        (path, node)
        for path in list_package_files("tests")
        if path.name.startswith("test_")
        for node in walk_functions(path)
        if node.name.startswith("test_")
    ]
    assert tests
    assert [f"{show(path)}:{node.name}" for path, node in tests if not checks_something(node)] == []


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    forbidden = {"skip", "skipif", "xfail", "importorskip"}
    used = [
        f"{show(path)}:{node.lineno}"
        for path in list_package_files("tests")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr in forbidden
    ]
    assert used == []


@cache
def find_functions() -> dict[str, list[ast.AST]]:
    """Return every function of the tests by name; asserts often stand in a function that several tests share."""
    found: dict[str, list[ast.AST]] = {}
    for path in list_package_files("tests"):
        for node in walk_functions(path):
            found.setdefault(node.name, []).append(node)
    return found


def checks_something(test: ast.AST) -> bool:
    """Tell whether a test asserts, itself or in a function of the tests that it calls."""
    seen: set[str] = set()
    queue = [test]
    while queue:
        for node in ast.walk(queue.pop()):
            if isinstance(node, ast.Assert):
                return True
            if isinstance(node, ast.Call):
                name = find_name(node)
                if CHECKING_CALLS.match(name):
                    return True
                if name not in seen:
                    seen.add(name)
                    queue += find_functions().get(name, [])
    return False


def find_name(call: ast.Call) -> str:
    """Return the last part of the called name."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""
