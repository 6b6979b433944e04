"""The metrics of real workers, scraped over HTTP."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.storage.valkey import RunningValkey, running_valkey
from tests.telemetry.scraping import Scrape
from tests.worker.process.fleet import Fleet, open_fleet
from tests.worker.process.processes import eventually
from tests.worker.process.test_workers import post
from worker.accelerator import Accelerator
from worker.confine import LAYERS
from worker.metrics import PHASES

OWN_LABELS = {"kind", "outcome", "code", "phase", "direction", "layer", "le"}
PLATFORM = {"version", "implementation", "major", "minor", "patchlevel"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as found:
        yield found


def find_url(fleet: Fleet) -> str:
    log = fleet.folder / f"worker-{len(fleet.workers) - 1}.log"
    eventually(lambda: "metrics are at" in log.read_text(), 20.0)
    found = re.search(r"metrics are at (http://127\.0\.0\.1:\d+)/metrics", log.read_text())
    assert found is not None
    return found[1]


def run_one(fleet: Fleet, misdeed: str, state: str) -> tuple[str, Scrape]:
    fleet.start(misdeed)
    url = find_url(fleet)
    fleet.wait_until_ready(1)
    job = post(fleet)
    fleet.doorbell.ring(job)
    fleet.wait_for(job, state)
    eventually(lambda: Scrape(url).has("faultline_attempts_total"))
    eventually(lambda: Scrape(url).read("faultline_warm") == 1)
    return job, Scrape(url)


def test_a_worker_counts_attempts_work_and_how_it_confines(server: RunningValkey, tmp_path: Path) -> None:
    with open_fleet(server, tmp_path, FAULTLINE_METRICS_PORT="0") as fleet:
        job, scrape = run_one(fleet, "measure_well", "succeeded")
    assert scrape.read("faultline_attempts_total", kind="audit", outcome="succeeded") == 1
    assert scrape.read("faultline_job_seconds_count", kind="audit") == 1
    assert 0 <= scrape.read("faultline_engine_seconds_total", phase="loading") < scrape.read("faultline_job_seconds_sum") < 30
    golden = json.loads((ROOT / "tests/golden/report-0.1.0.json").read_bytes())  # what the audit process hands over
    assert scrape.read("faultline_cells_total") == len(golden["findings"])
    assert scrape.read("faultline_cell_seconds_count") == 1
    spent = [part["passes"] for name in ("findings", "breaking_points", "bit_flips") for part in golden[name]]
    for direction in ("forward", "backward"):
        assert scrape.read("faultline_passes_total", direction=direction) == sum(passes[direction] for passes in spent)
    assert (scrape.read("faultline_warm"), scrape.read("faultline_consuming")) == (1, 1)
    assert scrape.list_values("layer") == set(LAYERS)
    assert scrape.list_labels() <= OWN_LABELS | PLATFORM
    assert scrape.list_values("phase") <= PHASES | {"other"}
    assert job not in scrape.text
    assert scrape.read("process_resident_memory_bytes") > 0


def test_a_job_that_fails_is_counted_by_the_code_of_its_problem(server: RunningValkey, tmp_path: Path) -> None:
    with open_fleet(server, tmp_path, FAULTLINE_METRICS_PORT="0") as fleet:
        _, scrape = run_one(fleet, "refuse_the_model", "failed")
    assert scrape.read("faultline_refusals_total", code="model_unreadable") == 1
    assert scrape.read("faultline_attempts_total", outcome="failed") == 1


def test_a_port_that_is_taken_stops_the_start(server: RunningValkey, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with open_fleet(server, tmp_path, FAULTLINE_METRICS_PORT=port) as fleet:
            assert fleet.start().wait(30) == 3
    said = (tmp_path / "worker-0.log").read_text()
    assert "FAULTLINE_METRICS_PORT" in said
    assert "Traceback" not in said


def test_a_machine_without_the_drivers_library_has_no_accelerator() -> None:
    assert Accelerator.find("libno-such-driver.so.1") is None
