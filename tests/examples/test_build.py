"""The build script gives the shipped files again, and its table is the one in the README."""

from pathlib import Path

import torch

from examples.build import Built, build, render_table, replace_table
from examples.recipes import SHIPPED
from tests.examples.artifacts import ARTIFACTS, EXAMPLES, load_data, load_network, parse_row, read_table

TOLERANCE = 1e-6
"""Training in float64 amplifies a rounding difference about 13 times (a start changed by 1e-13 ends 1.3e-12 away), far below
the 6e-8 to which float32 then rounds weights below 1: a few roundings, and what sums of 64 products make of them."""


def test_rebuilding_the_mlp_gives_the_shipped_weights_outputs_and_data(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        built = build("digits_mlp", tmp_path)
    finally:
        torch.use_deterministic_algorithms(mode=False)
        torch.set_num_threads(threads)
    again, shipped = torch.jit.load(str(tmp_path / "digits_mlp.pt")), load_network("digits_mlp")
    weights = dict(shipped.named_parameters())
    assert weights.keys() == dict(again.named_parameters()).keys()
    for name, weight in again.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=TOLERANCE)
    inputs, labels = load_data(tmp_path / "digits.npz")
    for left, right in zip((inputs, labels), load_data(ARTIFACTS / "digits.npz"), strict=True):
        assert torch.equal(left, right)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), shipped(inputs), rtol=0, atol=100 * TOLERANCE)
    [row] = [row for row in read_table() if row.name == "digits_mlp"]
    assert (built.weights, round(built.accuracy, 4), round(built.loss, 4)) == (row.weights, row.accuracy, row.loss)


def test_the_readme_lists_every_example_in_order() -> None:
    assert [row.name for row in read_table()] == list(SHIPPED)


def test_a_rendered_row_reads_back_as_it_was_measured() -> None:
    files = (ARTIFACTS / "digits_mlp.pt", ARTIFACTS / "digits_mlp.onnx")
    table = render_table([Built("digits_mlp", SHIPPED["digits_mlp"], 8970, 0.25, 0.5, files)])
    assert parse_row(table.splitlines()[-1]) == ("digits_mlp", 8970, ARTIFACTS / "digits.npz", 0.25, 0.5, files)


def test_replacing_the_table_keeps_the_rest_of_the_page() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert replace_table(replace_table(page, "| one |"), "| two |") == replace_table(page, "| two |")
    start, end = page.split("<!-- table", 1)[0], page.split("<!-- end of table -->", 1)[1]
    replaced = replace_table(page, "| two |")
    assert replaced.startswith(start)
    assert replaced.endswith(end)
    assert "| digits_mlp |" not in replaced
