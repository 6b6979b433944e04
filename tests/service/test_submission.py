import logging
import time
from pathlib import Path

import pytest

from service.submission import ring
from storage.doorbell import Doorbell


def test_a_doorbell_that_does_not_ring_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doorbell = Doorbell(f"unix://{tmp_path}/nobody.sock")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        ring(doorbell, "0644c8b2", "cpu")
    doorbell.close()
    assert time.monotonic() - start < 5
    assert "0644c8b2" in caplog.text
