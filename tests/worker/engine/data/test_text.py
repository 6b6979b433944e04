"""CSV and JSON lines: types come from the model, every bad row is named, words are classes, rows are padded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import DataMismatch, DataUnreadable, Fault
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import Conversion, DataFile, Wanted
from worker.engine.data.reading import load_data

LABELLED = Wanted({"x": None}, label_dtype=torch.int64)


def read(path: Path, text: str, wanted: Wanted = LABELLED, **fields: Any) -> Dataset:
    path.write_text(text)
    return load_data(DataFile(path, **fields), wanted)


def refuse(path: Path, text: str, wanted: Wanted = LABELLED, **fields: Any) -> tuple[Fault, ...]:
    with pytest.raises((DataUnreadable, DataMismatch)) as caught:
        read(path, text, wanted, **fields)
    return caught.value.faults


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_columns_that_are_not_the_labels_form_the_input(tmp_path: Path) -> None:
    dataset = read(tmp_path / "d.csv", "a,labels,b\n1.5,0,2\n3,1,4\n")
    assert dataset.inputs["x"].tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert dataset.target.tolist() == [0, 1]


def test_columns_are_named_listed_or_matched(tmp_path: Path) -> None:
    text = "p2,p10,mask,y\n1,2,3,0\n"
    wanted = Wanted({"image": torch.float32, "mask": torch.int64}, label_dtype=torch.float32)
    for columns in ("p*", ("p2", "p10"), ("p[0-9]", "p10")):
        dataset = read(tmp_path / "d.csv", text, wanted, columns=(("image", columns), ("mask", "mask")), target=-1)
        assert dataset.inputs["image"].tolist() == [[1.0, 2.0]]
        assert (dataset.inputs["mask"].tolist(), dataset.inputs["mask"].dtype) == ([3], torch.int64)
        assert dataset.target.tolist() == [0.0]
    faults = refuse(tmp_path / "d.csv", text, wanted, columns=(("image", "q*"), ("mask", ("p2", "q"))), target=4)
    assert [fault.where for fault in faults] == ["/data/inputs", "/data/inputs", "/data/target"]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float32, torch.float32), (torch.int64, torch.int64), (torch.uint8, torch.uint8), (None, torch.int64)],
)
def test_numbers_take_the_type_of_the_model(tmp_path: Path, dtype: torch.dtype | None, expected: torch.dtype) -> None:
    wanted = Wanted({"x": dtype}, label_dtype=torch.int64)
    for path, text in (
        (tmp_path / "d.csv", "x,labels\n1,0\n2,1\n"),
        (tmp_path / "d.jsonl", lines({"x": 1, "labels": 0}, {"x": 2, "labels": 1})),
    ):
        dataset = read(path, text, wanted, columns=(("x", "x"),))
        assert (dataset.inputs["x"].dtype, dataset.inputs["x"].tolist()) == (expected, [1, 2])


def test_numbers_become_floats_where_one_is_none(tmp_path: Path) -> None:
    # The fraction comes after the first block of rows.
    rows = "".join("1,0\n" for _ in range(2000))
    dataset = read(tmp_path / "d.csv", f"x,labels\n{rows}0.5,1\n", columns=(("x", "x"),))
    assert (dataset.inputs["x"].dtype, float(dataset.inputs["x"].sum())) == (torch.float32, 2000.5)


def test_every_bad_cell_of_a_csv_file_is_named(tmp_path: Path) -> None:
    text = "a,b,labels\n1,2,0\n1,x,0\n,2,1\n1,2\n1,2,0.5\n"
    faults = refuse(tmp_path / "d.csv", text)
    assert [(fault.where, fault.got) for fault in faults] == [("/data/b/1", "x"), ("/data/a/2", ""), ("/data/row/3", "2")]
    [fault] = refuse(tmp_path / "d.csv", "a,labels\n1,2\n1,0.5\n")
    assert (fault.where, fault.got) == ("/data/labels/1", "0.5")


@pytest.mark.parametrize("text", ["1,2,3\n4,5,6\n", "a,a,labels\n1,2,3\n", "a,labels", 'a,"labels\n1,2\n'])
def test_files_that_are_no_table_are_refused(tmp_path: Path, text: str) -> None:
    assert refuse(tmp_path / "d.csv", text)


def test_a_table_without_rows_holds_no_examples(tmp_path: Path) -> None:
    [fault] = refuse(tmp_path / "d.csv", "a,labels\n")
    assert "no examples" in fault.what


def test_every_bad_line_of_json_is_named(tmp_path: Path) -> None:
    text = (
        lines({"x": [1, 2], "labels": 0})
        + "{nothing\n[1]\n"
        + lines({"x": [1, 2]}, {"x": ["a"], "labels": 0}, {"x": [[1], [2, 3]], "labels": 0})
    )
    text += '{"x": [NaN, 1], "labels": 1}\n' + lines({"x": [1, 2, 3], "labels": 1})
    faults = refuse(tmp_path / "d.jsonl", text)
    assert [fault.where for fault in faults] == [
        "/data/line/1",
        "/data/line/2",
        "/data/labels/3",
        "/data/x/4",
        "/data/x/5",
        "/data/line/6",
    ]


def test_more_problems_than_can_be_shown_are_counted(tmp_path: Path) -> None:
    faults = refuse(tmp_path / "d.jsonl", lines({"x": 1, "labels": 0}, *({"x": "a", "labels": 0} for _ in range(50))))
    assert len(faults) == 21
    assert faults[-1].got == "30"


def test_labels_may_be_words_when_the_classes_are_listed(tmp_path: Path) -> None:
    rows = lines({"x": 1, "labels": "cat"}, {"x": 2, "labels": "dog"})
    for path, text in ((tmp_path / "d.csv", "x,labels\n1,cat\n2,dog\n"), (tmp_path / "d.jsonl", rows)):
        assert read(path, text, classes=("dog", "cat")).target.tolist() == [1, 0]
        [fault] = refuse(path, text, classes=("dog", "bird"))
        assert fault.where == "/data/labels/0"
        assert "bird" in fault.expected
        assert len(refuse(path, text)) == 2


def test_rows_of_different_length_are_padded_or_all_named(tmp_path: Path) -> None:
    rows = lines({"ids": [5, 6, 7], "labels": [1, 2, 3]}, {"ids": [8], "labels": [4]})
    wanted = Wanted({"ids": torch.int64}, label_dtype=torch.int64)
    pads = (("ids", Conversion(pad_to=4)), ("labels", Conversion(pad_to=4, pad_value=-100)))
    dataset = read(tmp_path / "d.jsonl", rows, wanted, conversions=pads)
    assert dataset.inputs["ids"].tolist() == [[5, 6, 7, 0], [8, 0, 0, 0]]
    assert dataset.target.tolist() == [[1, 2, 3, -100], [4, -100, -100, -100]]
    assert [fault.where for fault in refuse(tmp_path / "d.jsonl", rows, wanted)] == ["/data/ids/1", "/data/labels/1"]
    short = (("ids", Conversion(pad_to=2)), ("labels", Conversion(pad_to=4)))
    assert [fault.where for fault in refuse(tmp_path / "d.jsonl", rows, wanted, conversions=short)] == ["/data/ids/0"]


def test_values_are_scaled_and_shaped_as_declared(tmp_path: Path) -> None:
    conversion = Conversion(torch.float32, (2, 1, 2), 1 / 255, (0.5, 0.25), (0.5, 1.0))
    dataset = read(tmp_path / "d.csv", "a,b,c,d,labels\n0,255,51,102,1\n", conversions=(("x", conversion),))
    assert dataset.inputs["x"].shape == (1, 2, 1, 2)
    assert torch.allclose(dataset.inputs["x"].flatten(), torch.tensor([-1.0, 1.0, -0.05, 0.15]))


@pytest.mark.parametrize(
    ("conversions", "said"),
    [
        ((("x", Conversion(shape=(3,))),), "declared shape"),
        ((("x", Conversion(mean=(1.0, 2.0, 3.0))),), "do not fit"),
        ((("y", Conversion()),), "names nothing"),
    ],
)
def test_conversions_that_do_not_fit_are_refused(tmp_path: Path, conversions: Any, said: str) -> None:
    [fault] = refuse(tmp_path / "d.csv", "a,b,labels\n1,2,0\n", conversions=conversions)
    assert said in fault.what
