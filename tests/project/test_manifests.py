import re
import subprocess
import tomllib

import pytest
import yaml

from tests.project.tree import BIN, ROOT, list_files, show

COMPOSE = ["deploy/compose.yaml", "deploy/compose.gpu.yaml"]
LINTERS = {
    "Dockerfile": ["hadolint", "Dockerfile"],
    "compose": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE],
}
# Official images by plain name and version; a registry's host name in front would have a dot before the first slash.
IMAGE = re.compile(r"^([a-z0-9-]+/)?[a-z0-9-]+:\d+\.\d+[\w.-]*$")
STORE_SETTINGS = {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"}


def read_compose() -> dict[str, dict[str, dict[str, object]]]:
    document: dict[str, dict[str, dict[str, object]]] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    return document


def read_dockerfile() -> list[list[str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LINTERS)
def test_the_linter_accepts_the_manifest(name: str) -> None:
    command = [str(BIN / LINTERS[name][0]), *LINTERS[name][1:]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_yamllint_accepts_every_yaml_file() -> None:
    files = [show(path) for path in list_files() if path.suffix in {".yaml", ".yml"}]
    ran = subprocess.run([BIN / "yamllint", "--strict", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_both_images_are_there_and_run_without_root() -> None:
    lines = read_dockerfile()
    stages = {line[3]: at for at, line in enumerate(lines) if line[0] == "FROM"}
    for name in ("service", "worker"):
        end = min((at for at in stages.values() if at > stages[name]), default=len(lines))
        stage = {line[0]: line[1:] for line in lines[stages[name] : end]}
        assert stage["USER"] == ["10001:10001"]
        assert stage["CMD"] == ['["python",', '"-m",', f'"{name}"]']
        assert stage["HEALTHCHECK"] == ["NONE"] or "/healthz" in " ".join(stage["HEALTHCHECK"])


def test_the_service_image_is_built_without_the_worker() -> None:
    lines = read_dockerfile()
    start = lines.index(["FROM", "base", "AS", "service-build"])
    end = lines.index(["FROM", "base", "AS", "worker-build"])
    text = " ".join(word for line in lines[start:end] for word in line)
    assert ".[service]" in text
    assert "worker" not in text
    assert "dev" not in text


def test_images_are_named_plainly_and_pinned_by_version() -> None:
    built = {line[3] for line in read_dockerfile() if line[0] == "FROM"}
    bases = [line[1] for line in read_dockerfile() if line[0] == "FROM" and line[1] not in built]
    pulled = [str(service["image"]) for service in read_compose()["services"].values() if "image" in service]
    assert pulled
    assert bases
    assert [name for name in [*bases, *pulled] if not IMAGE.match(name)] == []


def test_the_store_forgets_nothing_that_was_accepted() -> None:
    command = read_compose()["services"]["store"]["command"]
    assert isinstance(command, list)
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given.items() >= STORE_SETTINGS.items()


def test_every_container_is_confined_and_the_api_stays_on_this_machine() -> None:
    services = read_compose()["services"]
    assert services.keys() == {"store", "service", "worker"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        ports = service.get("ports", [])
        assert isinstance(ports, list)
        assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_the_service_in_a_container_asks_everybody_for_a_key() -> None:
    environment = read_compose()["services"]["service"]["environment"]
    assert isinstance(environment, dict)
    assert environment["FAULTLINE_AUTH"] == "required"
    assert all("FAULTLINE_AUTH=off" not in word for line in read_dockerfile() for word in line)


def test_the_build_context_holds_only_what_is_copied() -> None:
    entries = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {entry.removeprefix("!") for entry in entries if entry.startswith("!")}
    sources = {word for line in read_dockerfile() if line[0] == "COPY" and "--from" not in line[1] for word in line[1:-1]}
    assert "*" in entries
    assert kept == sources


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {path.parts[-2] for path in list_files() if path.name == "__init__.py" and path.parent.parent == ROOT}
    assert {f"{name}*" for name in packages - {"tests", "examples", "benchmarks"}} == set(included)
