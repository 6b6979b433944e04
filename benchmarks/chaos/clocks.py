"""Clocks that step: every program's wall clock through libfaketime, where it is installed."""

import importlib.util
from pathlib import Path

PLACES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


class Clocks:
    """Wall clocks of programs that were started with `environment(name)`; monotonic clocks stay true, as in a real step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets_s: dict[str, int] = {}
        self._library = find_library()
        folder.mkdir()

    @property
    def can_step(self) -> bool:
        """Whether libfaketime was found."""
        return self._library is not None

    def environment(self, name: str) -> dict[str, str]:
        """Return what a program needs in its environment to have a clock of this name."""
        if self._library is None:
            return {}
        self.step(name, 0)
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }

    def step(self, name: str, by_s: int) -> None:
        """Put the clock forward, or back."""
        self._offsets_s[name] = self._offsets_s.get(name, 0) + by_s
        aside = self._file(name).with_suffix(".new")
        aside.write_text(f"{self._offsets_s[name]:+d}\n")
        aside.replace(self._file(name))

    def _file(self, name: str) -> Path:
        return self._folder / name


def find_library() -> Path | None:
    """Return the shared library of libfaketime, from its Python package or from the system."""
    package = importlib.util.find_spec("libfaketime")
    folders = [Path(place) for place in (package.submodule_search_locations or [] if package is not None else [])]
    for folder in [*folders, *map(Path, PLACES)]:
        for found in sorted(folder.rglob("libfaketime.so.1")):
            return found
    return None
