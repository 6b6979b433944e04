import pytest

from benchmarks.overhead import BAR_S, ENDED, Sample, show


@pytest.mark.parametrize(("overhead_s", "code"), [(BAR_S / 2, 0), (BAR_S * 1.1, 1)])
def test_the_bench_of_the_overhead_ends_with_1_above_its_bar(
    overhead_s: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([Sample(1.0 + overhead_s, 1.0 + overhead_s / 2, 1.0)] * 3) == code
    assert ("MISSED" in capsys.readouterr().out) is bool(code)


def test_the_bench_reads_the_workers_log() -> None:
    line = "2026-01-31 INFO worker.account job 0644c8 attempt 1 succeeded after 1.475 s, of which the engine took 1.321 s"
    assert ENDED.findall(line) == [("0644c8", "1.475", "1.321")]
