"""Both exporters at their oldest and newest opsets; `make opsets` prints all networks at all opsets."""

import pytest

from benchmarks.opsets import OPSETS, main


def test_the_older_exporter_at_every_opset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "residual_cnn", "lstm", "bert", "--exporters", "traced"]) == 0
    printed = capsys.readouterr().out
    assert f"{3 * (len(OPSETS) - 1)} of {3 * (len(OPSETS) - 1)} files" in printed
    assert "traced at opset 25: it ends at opset 23 (3: residual_cnn, lstm, bert)" in printed


def test_the_default_exporter_at_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "mlp", "--exporters", "default", "--opsets", "13", "25"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 files" in printed
    assert "default at opset 13: it writes opset 18 instead (1: mlp)" in printed
