"""Files that are built to exhaust their reader: nesting, repetition and sharing of every kind end in a typed refusal, at once."""

import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from schemas.errors import AuditError, ModelRefused, ModelUnreadable
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from tests.worker.engine.models.torchscript.archives import edit, replace_entry, replace_text
from worker.engine.models.load import load_program

DEPTH = 10_000
LONGEST_S = 10.0


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.relu(self.fc(x))
        return y + x


def save_script(folder: Path) -> Path:
    path = folder / "model.pt"
    torch.jit.save(torch.jit.script(Plain()), str(path))
    return path


def in_code(text: str) -> Callable[[Path], Path]:
    return lambda folder: edit(
        save_script(folder), replace_text("test_deep_files.py", "torch.relu(", f"{text}\n    y0 = torch.relu(")
    )


def in_pickle(content: bytes) -> Callable[[Path], Path]:
    return lambda folder: edit(save_script(folder), replace_entry("data.pkl", content))


def field(number: int, content: bytes) -> bytes:
    """Return one length-delimited field of a protocol buffer."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def nest_graphs(folder: Path) -> Path:
    """Write an ONNX file with a graph in an attribute of a node of a graph ... DEPTH deep."""
    graph = b""
    for _ in range(DEPTH):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"If") + field(5, attribute))
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x0a" + field(7, graph) + field(8, field(1, b"") + b"\x10\x14"))
    return path


def chain_functions(folder: Path, calls: int = 1, functions: int = DEPTH) -> Path:
    """Write an ONNX file whose functions call one another, each the next one `calls` times."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    written = []
    for place in range(functions):
        callee, domain = (f"f{place + 1}", "local") if place + 1 < functions else ("Relu", "")
        names = ["a", *(f"v{step}" for step in range(calls - 1)), "b"]
        body = [helper.make_node(callee, [names[step]], [names[step + 1]], domain=domain) for step in range(calls)]
        written.append(helper.make_function("local", f"f{place}", ["a"], ["b"], body, opsets))
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("f0", ["h"], ["y"], domain="local")]
    stored = [initializer("w", np.ones((3, 3), np.float32))]
    return save(folder, nodes, stored=stored, functions=written, opsets={"": 20, "local": 1})


def share_entry(folder: Path) -> Path:
    """Write a zip archive whose directory names one stored record many times, as quine and overlap bombs do."""
    path = save_script(folder)
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", content[end + 10 : end + 20])
    directory = content[start : start + size]
    at = directory.rindex(b"PK\x01\x02", 0, directory.index(b"data/0"))
    width = struct.unpack("<H", directory[at + 28 : at + 30])[0]
    entry = directory[at : at + 46 + width + sum(struct.unpack("<HH", directory[at + 30 : at + 34]))]
    copies = b"".join(entry.replace(b"data/0", b"data/%c" % letter) for letter in range(ord("A"), ord("Z") + 1))
    total = struct.pack("<HHII", count + 26, count + 26, size + len(copies), start)
    path.write_bytes(content[:start] + directory + copies + content[end : end + 8] + total + content[end + 20 :])
    return path


CASES: dict[str, Callable[[Path], Path]] = {
    "parentheses in code": in_code("(" * DEPTH + "1" + ")" * DEPTH),
    "minus signs in code": in_code("-" * DEPTH + "1"),
    "sums in code": in_code("x" + " + x" * DEPTH),
    "attributes in code": in_code("x" + ".t" * DEPTH),
    "calls in code": in_code("torch.relu(" * DEPTH + "x" + ")" * DEPTH),
    "lists in code": in_code("[" * DEPTH + "1" + "]" * DEPTH),
    "blocks in code": in_code("".join("\n" + "  " * (2 + level) + "if True:" for level in range(DEPTH // 10)) + " pass"),
    "lists in a pickle": in_pickle(b"\x80\x02" + b"]" * DEPTH + b"a" * (DEPTH - 1) + b"."),
    "tuples in a pickle": in_pickle(b"\x80\x02)" + b"\x85" * DEPTH + b"."),
    "marks in a pickle": in_pickle(b"\x80\x02" + b"(" * DEPTH + b"."),
    "graphs in graphs": nest_graphs,
    "functions in functions": chain_functions,
    "functions that double": lambda folder: chain_functions(folder, calls=2, functions=30),
    "one record, many names": share_entry,
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_at_once(case: str, tmp_path: Path) -> None:
    path = CASES[case](tmp_path)
    started = time.process_time()
    with pytest.raises(AuditError) as caught:
        load_program(path)
    assert isinstance(caught.value, ModelRefused | ModelUnreadable)
    assert time.process_time() - started < LONGEST_S
    assert all(fault.what for fault in caught.value.faults)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
