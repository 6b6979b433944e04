from collections.abc import Iterator

import pytest

from tests.storage.desk import Desk, open_desk
from tests.storage.valkey import RunningValkey, running_valkey, valkey

__all__ = ["desk", "shared_valkey", "valkey"]


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    """A server for tests that leave it running."""
    with running_valkey(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def desk(shared_valkey: RunningValkey) -> Iterator[Desk]:
    """An empty store."""
    with open_desk(shared_valkey) as opened:
        opened.client.flushall()
        yield opened
