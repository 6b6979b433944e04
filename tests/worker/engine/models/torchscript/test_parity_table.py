import math

import pytest

from benchmarks.parity import ROUTES, Row, format_table, main


def test_the_table_of_a_few_networks_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "mlp", "gpt2", "--routes", "trace", "script", "frozen"]) == 0
    printed = capsys.readouterr().out
    assert "mlp" in printed
    assert "2 of 2" in printed.splitlines()[-1]


def test_one_network_passes_by_every_route(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "residual_cnn"]) == 0
    assert capsys.readouterr().out.count("1 of 1") == len(ROUTES)


def test_a_row_passes_only_with_both_figures() -> None:
    rows = [
        Row("net", "trace", 1e-6, 1e-3),
        Row("net", "frozen", 1e-6, 1e-6),
        Row("net", "onnx", math.nan, math.nan, "no loader"),
    ]
    assert [row.passed for row in rows] == [False, True, False]
    table = format_table(rows, ["trace", "frozen", "onnx"])
    assert table.splitlines()[2].split()[-9:] == ["0", "of", "1", "1", "of", "1", "0", "of", "1"]
    assert table.endswith("net by onnx: no loader")
