"""What ends the measuring of each figure, as `precision` in the request says."""

from collections.abc import Iterator

from schemas.policy import Demand
from schemas.request import AuditRequest
from worker.engine.population import Figure
from worker.engine.sampled import Plan
from worker.engine.statistics.interval import Threshold
from worker.engine.statistics.precision import Target

FIRST_LOOK = 128
"""Examples measured before precision mode looks: limits of losses need a hundred."""
PERPLEXITY = "perplexity"


class Targets:
    """The request's thresholds and relative error, by figure."""

    def __init__(self, request: AuditRequest) -> None:
        self._precision = request.precision
        self._confidence = request.confidence

    def plan(self, least: int = FIRST_LOOK) -> Plan:
        """Return how much to draw; in precision mode at least `least` examples."""
        if self._precision is None:
            return Plan(self._confidence)
        return Plan(self._precision.confidence or self._confidence, max(FIRST_LOOK, least))

    def find(self, figure: Figure) -> Target | None:
        """Return a figure's thresholds; for the damage of what has none, the relative error."""
        precision = self._precision
        if precision is None:
            return None
        if figure.what == PERPLEXITY:
            # Its rise has no limits before the data is used up.
            wanted = precision.relative_error is not None or any(one.metric == PERPLEXITY for one in precision.thresholds)
            return Target() if wanted else None
        demands = [one for one in precision.thresholds if (one.metric or "loss") == figure.what]
        thresholds = tuple(threshold for one in demands for threshold in _read_thresholds(one, figure))
        if thresholds:
            return Target(thresholds=thresholds)
        wants_tight = not demands and not figure.is_value and precision.relative_error is not None
        return Target(precision.relative_error) if wants_tight else None

    def find_clean(self, figure: Figure) -> Target | None:
        """Return what the clean figure must be clear of; without that, the relative error."""
        if self._precision is None:
            return None
        clean = self._precision.clean
        if clean is not None and figure.what == "loss" and clean.loss_at_most is not None:
            return Target(thresholds=(Threshold(clean.loss_at_most),))
        if clean is not None and figure.what == "accuracy" and clean.accuracy_at_least is not None:
            return Target(thresholds=(Threshold(clean.accuracy_at_least, from_below=True),))
        relative = self._precision.relative_error
        return None if relative is None else Target(relative)


def _read_thresholds(demand: Demand, figure: Figure) -> Iterator[Threshold]:
    """Yield the demand's threshold when it is one on this figure."""
    if figure.is_value:
        if demand.at_most is not None:
            yield Threshold(demand.at_most)
        if demand.at_least is not None:
            yield Threshold(demand.at_least, from_below=True)
    else:
        worst = demand.loss_change_at_most if demand.drop_at_most is None else demand.drop_at_most
        if worst is not None:
            yield Threshold(worst)
