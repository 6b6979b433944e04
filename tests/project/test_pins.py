import re
import runpy
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from schemas.version import VERSION
from tests.project.tree import ROOT

PIN = runpy.run_path(str(ROOT / ".ci/pin.py"))
OTHER_PYTHONS = {"3.11": "3.11.0", "3.12": "3.12.0", "3.13": "3.13.0", "3.14": "3.14.0"}


def read_pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_everything_that_is_installed_has_its_exact_version_pinned() -> None:
    needed = PIN["find_needed"]("faultline[dev]")
    ours = {name: version for name, version in needed.items() if name != "faultline" and not PIN["PLATFORM"].match(name)}
    assert ours.items() <= read_pins().items()


def test_what_another_python_on_linux_would_need_is_pinned_too() -> None:
    pins, missing = read_pins(), set()
    for name in pins.keys() - {"async-timeout"}:
        for line in metadata.distribution(name).requires or ():
            wanted = Requirement(line)
            for version, full in OTHER_PYTHONS.items():
                environment = {**default_environment(), "python_version": version, "python_full_version": full, "extra": ""}
                needed = wanted.marker is None or wanted.marker.evaluate({key: str(value) for key, value in environment.items()})
                if needed and not PIN["PLATFORM"].match(wanted.name):
                    missing |= {PIN["normalise"](wanted.name)} - pins.keys()
    assert missing == set()


def test_pins_fit_a_cpu_build_and_a_cuda_build_of_torch() -> None:
    pins = read_pins()
    assert re.fullmatch(r"\d+\.\d+\.\d+", pins["torch"])
    assert [name for name in pins if PIN["PLATFORM"].match(name)] == []
    assert [version for version in pins.values() if "+" in version] == []


def test_the_version_is_said_once() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_the_service_needs_nothing_that_opens_models() -> None:
    assert PIN["find_needed"]("faultline[service]").keys() & {"torch", "onnx", "onnxruntime", "numpy", "scipy"} == set()


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "check", "format", "lint", "types", "bench", "overhead", "parity", "chaos", "up"]
)
def test_make_knows_the_target_and_explains_it(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert planned.returncode == 0, planned.stderr
    assert re.search(rf"^{target} +\w", listed, re.MULTILINE)


def test_make_runs_modules_that_exist() -> None:
    recipes = (ROOT / "Makefile").read_text()
    modules = re.findall(r"\$\(BIN\)/python -m ([a-z]+[.][a-z_.]+)", recipes)
    scripts = re.findall(r"\$\(BIN\)/python ([\w/.]+\.py)", recipes)
    paths = [Path(*name.split(".")) for name in modules]
    assert [
        str(path) for path in paths if not ((ROOT / path).with_suffix(".py").is_file() or (ROOT / path / "__main__.py").is_file())
    ] == []
    assert [name for name in scripts if not (ROOT / name).is_file()] == []


def test_without_a_new_enough_python_make_says_what_to_install(tmp_path: Path) -> None:
    command = ["make", "-f", str(ROOT / "Makefile"), "PYTHON=", ".venv/bin/python"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "needs Python 3.11 or newer" in ran.stderr
    assert not (tmp_path / ".venv").exists()
