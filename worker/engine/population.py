"""Population: all of D, of which the search sees one seeded sample and the measuring another; method section 8."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.errors import DataMismatch, Fault
from worker.engine.admit import check_clean_loss
from worker.engine.examples import Batch, ExampleSums, join_examples, measure_batches
from worker.engine.objective import HIGHER_IS_BETTER
from worker.engine.search import derive_seed
from worker.engine.session import Session
from worker.engine.statistics.precision import permute_rows
from worker.engine.statistics.sequence import Values
from worker.engine.tally import TOP


@dataclass(frozen=True)
class Sample:
    """How many examples each of the two samples has, and what they are drawn with."""

    examples: int
    seed: int


@dataclass(frozen=True)
class Figure:
    """A mean over the examples of D under a corruption: the deterioration of the loss or of a metric, or its value.

    what: "loss" or a metric. Per example it is the sum over its labels, divided by the labels per example of all of D, so that
    the mean is over labels, also where examples have different numbers of them.
    """

    what: str
    is_value: bool = False

    def compute_values(self, population: "Population", clean: ExampleSums, corrupted: ExampleSums) -> Values:
        """Return one value per example [n]; NaN where a loss is asked for that is not finite."""
        better, worse = (corrupted, clean) if self._falls else (clean, corrupted)
        counts = self._count(corrupted) if self.is_value else self._count(worse) - self._count(better)
        return counts / population.labels_per_example

    def find_bounds(self, population: "Population") -> tuple[float, float] | None:
        """Return between what the values lie; None for losses."""
        largest = population.most_labels / population.labels_per_example
        return (0.0 if self.is_value else -largest, largest) if self.is_count else None

    @property
    def is_count(self) -> bool:
        """Whether it counts answers, so that it is bounded, and finite whatever the outputs are."""
        return self.what in TOP

    @property
    def _falls(self) -> bool:
        return self.what in HIGHER_IS_BETTER

    def _count(self, sums: ExampleSums) -> Values:
        if not self.is_count:
            return sums.losses
        right = sums.right[TOP[self.what]]
        return right if self._falls else sums.labels - right


class Population:
    """All examples of D in a seeded order; a prefix of it is a sample without replacement.

    The search has a sample of its own: on what was searched, damage is larger than on the rest, so figures that are to hold for
    D come from rows that were drawn without regard to the search.
    """

    def __init__(self, session: Session, sample: Sample, device: str) -> None:
        self._session = replace(session, program=session.program.to(device), objective=session.objective.to(device))
        self._sample, self._device = sample, device
        self._order = self._permute("measured sample")
        self._clean: ExampleSums | None = None
        find_counted = session.objective.find_counted
        self.labels = session.labels_counted
        self.most_labels = max(
            int(find_counted(labels).reshape(len(labels), -1).sum(1).max()) for labels in session.dataset.walk_labels()
        )

    def __len__(self) -> int:
        return len(self._session.dataset)

    @property
    def labels_per_example(self) -> float:
        """Labels that count, per example of D."""
        return self.labels / len(self)

    @property
    def drawn(self) -> int:
        """How many examples were measured so far."""
        return 0 if self._clean is None else len(self._clean)

    @property
    def sample(self) -> int:
        """How many examples are measured where nothing else says when to stop."""
        return self._sample.examples

    def draw_search_sample(self) -> Session:
        """Return the session on the sample that gradient and search see, in file order."""
        rows = self._permute("search sample")[: self._sample.examples].sort().values
        session = replace(self._session, dataset=self._session.dataset.take(rows.tolist()).to(self._device))
        if session.labels_counted == 0:
            advice = "raise data.max_examples, or check objective.ignore_index"
            what = f"none of the {self._sample.examples} examples that were drawn for the search has a label that counts"
            raise DataMismatch(Fault(what, "/data/max_examples", "at least one label", "none", advice))
        return session

    def measure(self, parameters: Mapping[str, Tensor], start: int, stop: int) -> ExampleSums:
        """Return what the weights in `parameters`, the others clean, do to the examples start..stop of the order."""
        session = self._session
        return session.run(lambda: measure_batches(session.program, session.objective, parameters, self._batches(start, stop)))

    def measure_clean(self, start: int, stop: int) -> ExampleSums:
        """Return what the clean weights do to the examples start..stop; each example is run once."""
        known = self._clean
        if known is None or stop > len(known):
            fresh = self.measure({}, self.drawn, stop)
            if fresh.non_finite:
                check_clean_loss(None, fresh.non_finite)
            known = self._clean = fresh if known is None else join_examples([known, fresh])
        return known.select(start, stop)

    def _permute(self, what: str) -> Tensor:
        rows = permute_rows(len(self._session.dataset), derive_seed(self._sample.seed, what))
        return torch.from_numpy(rows)

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        for rows in self._order[start:stop].split(self._session.batch_size):
            yield from self._session.dataset.take(rows.tolist()).to(self._device).batches(len(rows))
