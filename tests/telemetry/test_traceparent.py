import pytest

from telemetry.traceparent import TraceParent, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_well_formed_header_is_read_and_written_back() -> None:
    for flags, sampled in (("01", True), ("00", False), ("03", True)):
        assert read_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == TraceParent(TRACE, SPAN, sampled)
    assert str(TraceParent(TRACE, SPAN, sampled=True)) == f"00-{TRACE}-{SPAN}-01"
    assert read_traceparent(str(TraceParent.begin(sampled=False))) is not None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert read_traceparent(f"01-{TRACE}-{SPAN}-01-what-comes") == TraceParent(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        TRACE,
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f" 00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}-{SPAN}-01",
    ],
)
def test_a_malformed_header_is_none(value: str | None) -> None:
    assert read_traceparent(value) is None


def test_a_span_below_has_the_same_trace_and_another_id() -> None:
    above = TraceParent(TRACE, SPAN, sampled=False)
    below = above.descend()
    assert (below.trace_id, below.sampled) == (TRACE, False)
    assert below.span_id != SPAN
