import pytest
from pydantic import ValidationError

from worker.messages import TimingMessage, build_timing
from worker.phases import Phase, PhaseClock, find_seconds


def tick(*seconds: float) -> PhaseClock:
    times = list(seconds)
    return PhaseClock(lambda: times.pop(0))


def ignore(_phase: str, _done: int, _total: int) -> None:
    """Stand in for a pipe to the supervisor."""


def test_a_phase_lasts_until_the_next_begins_and_goes_on_when_it_comes_again() -> None:
    clock = tick(10.0, 10.0, 10.5, 12.5, 13.0, 14.0, 14.25)
    report = clock.watch(ignore)
    for phase in ("loading", "search", "search", "writing", "search"):
        report(phase, 0, 1)
    assert clock.end() == (
        Phase("engine", 0.0, 4.25),
        Phase("loading", 0.0, 0.5),
        Phase("search", 0.5, 3.0),
        Phase("writing", 2.5, 0.5),
    )


def test_a_job_that_tells_no_progress_has_its_whole_time_only() -> None:
    assert tick(1.0, 4.0).end() == (Phase("engine", 0.0, 3.0),)
    assert find_seconds([], "search") == 0.0


def test_what_the_audit_process_claims_is_cut_to_the_time_that_has_passed() -> None:
    told = build_timing([Phase("engine", 0.0, 9e6), Phase("search", 5e6, 1.0), Phase("loading", 1.0, 0.5)])
    assert told.list_phases(2.0) == (Phase("engine", 0.0, 2.0), Phase("search", 2.0, 0.0), Phase("loading", 1.0, 0.5))


@pytest.mark.parametrize(
    "phases",
    [
        [{"name": "search", "began_s": -1.0, "seconds": 1.0}],
        [{"name": "search", "began_s": 0.0, "seconds": float("nan")}],
        [{"name": "a\nline of a log", "began_s": 0.0, "seconds": 1.0}],
        [{"name": "search", "began_s": 0.0, "seconds": 1.0}] * 17,
    ],
)
def test_a_timing_that_is_none_is_refused(phases: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        TimingMessage.model_validate({"phases": phases})
