"""Prints constraints.txt: the exact version of everything that `faultline[dev]` needs, as installed in this environment.

`make constraints` runs it in a fresh virtual environment. Left out on purpose: the CUDA packages, which torch itself pins
to the build that a machine installs (CPU or CUDA), and local version labels such as +cpu, for the same reason.
"""

import re
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

PLATFORM = re.compile(r"nvidia-|cuda-|triton$")
EXTRA = ("async-timeout",)
"""Needed by redis on Python 3.11.0 to 3.11.2 only, so a newer Python would not find it."""


def normalise(name: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_needed(*roots: str) -> dict[str, str]:
    """Return name -> version of all that `roots` (with extras) need here, themselves included."""
    needed: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        wanted = queue.pop()
        name = normalise(wanted.name)
        distribution = metadata.distribution(name)
        needed[name] = Version(distribution.version).public
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                queue.extend(_find_direct(distribution, extra))
    return needed


def _find_direct(distribution: metadata.Distribution, extra: str) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def main() -> None:
    """Print the file."""
    print("# Exact versions of everything Faultline installs; refresh with `make constraints`.")
    print("# torch carries no local label and its CUDA packages are not listed: torch pins them itself,")
    print("# so a CPU build and a CUDA build both fit.")
    for name, version in sorted(find_needed("faultline[dev]", *EXTRA).items()):
        if name != "faultline" and not PLATFORM.match(name):
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
