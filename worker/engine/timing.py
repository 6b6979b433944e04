"""How long one pass takes here: one micro-batch, timed through the code that a search runs."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.regions import Region
from worker.engine.session import SESSION_EXAMPLES, Evaluator, Session

LONGEST_S = 0.2
"""A pass is timed again, for the median, while all of its runs together take less."""
MOST_RUNS = 5


@dataclass(frozen=True)
class PassTimes:
    """Seconds over all of the data. forward: to measure a corruption; step: the same with its gradient and the next choice.

    forward_batch, step_batch: the passes alone, over one micro-batch.
    """

    forward: float
    step: float
    forward_batch: float = 0.0
    step_batch: float = 0.0


@dataclass(frozen=True)
class _Trial(Session):
    """The first micro-batch of a session, measured by the engine that measures the whole."""

    whole: Session | None = None

    def pays_sessions(self, target: Tensor, fewest: int = SESSION_EXAMPLES) -> bool:
        """Tell what the whole session would do with a batch like this one."""
        return self.whole is not None and self.whole.pays_sessions(target, fewest)


class Stopwatch:
    """Times passes over one session by `clock`, in seconds. trial: its first micro-batch. batches: how many of these it has."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        first = session.dataset.take(range(min(session.batch_size, len(session.dataset))))
        self.trial = _Trial(session.program, first, session.objective, session.micro_batch, session.shrinking, session)
        self.batches = len(session.dataset) / len(first)

    def time_scope(self, names: Sequence[str], region: Callable[[Evaluator], Region]) -> PassTimes:
        """Return the times of corrupting these weights: what a corruption costs once, and what it costs per micro-batch."""
        evaluator = Evaluator(self.trial, names)
        chosen, nothing = region(evaluator), torch.zeros(evaluator.layout.size, dtype=torch.float64)
        found: list[Tensor] = []

        def step() -> None:
            [(_, gradient)] = evaluator.measure_with_gradient([nothing])
            found[:] = [gradient.nan_to_num()]

        change = self._time(lambda: evaluator.layout.apply(nothing))
        forward, both = self._time(lambda: evaluator.measure([nothing])), self._time(step)
        return PassTimes(
            forward=self._extend(forward, change) + self._time(lambda: chosen.draw(0)),
            step=self._extend(both, change) + self._time(lambda: chosen.maximise(found[0])),
            forward_batch=forward,
            step_batch=both,
        )

    def _extend(self, seconds: float, once: float) -> float:
        """Return the seconds over all micro-batches, of which the first took `seconds`; `once` of them do not come again."""
        return seconds + (self.batches - 1) * max(0.0, seconds - once)

    def time_plain(self) -> float:
        """Return the seconds of a forward pass of the interpreter, which shares nothing."""
        inputs, _ = next(self.trial.batches())
        with torch.no_grad():
            return self._time(lambda: self.trial.program.forward({}, inputs)) * self.batches

    def _time(self, run: Callable[[], object]) -> float:
        run()  # makes plans, sessions and activations that later passes find
        seconds: list[float] = []
        while len(seconds) < MOST_RUNS and sum(seconds) < LONGEST_S:
            started = self._clock()
            run()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            seconds.append(self._clock() - started)
        return statistics.median(seconds)
