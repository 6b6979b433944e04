import re

from service.settings import Settings
from telemetry.environment import KNOWN, PREFIX, find_misspelt, list_unknown
from tests.project.tree import ROOT, list_package_files
from worker.settings import WorkerSettings


def test_the_known_variables_are_those_that_our_programs_read() -> None:
    fields = [*Settings.model_fields.items(), *WorkerSettings.model_fields.items()]
    read = {name.upper() for name, field in fields if field.validation_alias is None}
    for package in ("client", "standalone"):
        for path in list_package_files(package):
            read |= set(re.findall(rf"{PREFIX}([A-Z_]+[A-Z])", path.read_text(encoding="utf-8")))
    assert read == KNOWN, "correct telemetry/environment.py"


def test_a_variable_that_is_nearly_one_of_ours_is_found_and_a_clusters_own_are_not() -> None:
    given = {"FAULTLINE_PRT": "1", "FAULTLINE_SANDBX": "off", "FAULTLINE_PORT_8321_TCP": "x", "FAULTLINE_SERVICE_HOST": "x"}
    assert find_misspelt(given | {PREFIX + name: "" for name in KNOWN}) == {
        "FAULTLINE_PRT": "FAULTLINE_PORT",
        "FAULTLINE_SANDBX": "FAULTLINE_SANDBOX",
    }
    assert list_unknown(given) == sorted(given)
    assert find_misspelt({"REDIS_URL": "", "FAULTLINE": "", "PATH": ""}) == {}


def test_the_project_sets_no_variable_that_is_not_known() -> None:
    for path in (ROOT / "Dockerfile", *(ROOT / "deploy").glob("*.yaml")):
        assert list_unknown(dict.fromkeys(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", path.read_text(encoding="utf-8")), "")) == []
