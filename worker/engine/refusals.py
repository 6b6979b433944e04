"""Refusals: what several checks refuse, told at once instead of one after the other."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from schemas.errors import AuditError, join_errors

P = ParamSpec("P")
T = TypeVar("T")


class Refusals:
    """Collects the errors of checks that do not need each other's results."""

    def __init__(self) -> None:
        self.errors: list[AuditError] = []

    def attempt(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what the check returns; None when it refuses, which is noted."""
        try:
            return check(*args, **kwargs)
        except AuditError as error:
            self.errors.append(error)
            return None

    def passes(self, check: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Tell whether the check has nothing to refuse; what it refuses is noted."""
        before = len(self.errors)
        self.attempt(check, *args, **kwargs)
        return len(self.errors) == before

    def raise_any(self) -> None:
        """Raise one error with every fault that was noted, of the first one's class."""
        if self.errors:
            error = join_errors(self.errors)
            raise error
