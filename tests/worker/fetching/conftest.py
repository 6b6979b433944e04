from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.worker.fetching.servers import Site, running_site

INSIDE = "127.0.0.1"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def both_sites(authority: trustme.CA) -> Iterator[tuple[Site, Site]]:
    """One site that may be fetched from and, on the same port, one inside with a certificate for whatever it is called."""
    names = ("models.test", "inside.test", "localhost", "127.0.0.1", "*.test")
    with running_site(authority) as outer, running_site(authority, INSIDE, outer.port, names) as inner:
        yield outer, inner


@pytest.fixture
def site(both_sites: tuple[Site, Site]) -> Site:
    """A site that may be fetched from."""
    both_sites[0].forget()
    return both_sites[0]


@pytest.fixture
def inside(both_sites: tuple[Site, Site]) -> Site:
    """A server that nobody may reach."""
    both_sites[1].forget()
    return both_sites[1]
