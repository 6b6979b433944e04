"""Files that are built to act when they are loaded, or to mislead their reader: refused, and nothing happens."""

import os
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import AuditError, ModelRefused, ModelUnreadable, UnsupportedOperator
from tests.worker.engine.models.torchscript.archives import (
    Entries,
    edit,
    find_name,
    read_entries,
    replace_entry,
    replace_text,
    write_entries,
)
from tests.worker.engine.models.torchscript.conftest import Save
from worker.engine.models.torchscript import load_torchscript, run_reference


class WritesWhenLoaded(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.weight = torch.ones(2)
        self.target = target

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.target, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.target = state[0]
        self.weight = state[1]
        self.training = state[2]
        torch.save(torch.ones(2), self.target)


class WritesWhenRun(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.target)
        return self.fc(x)


class ReadsFiles(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.from_file(self.target, False, 2)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.fc(x))
        return y + x


def script_hostile(kind: type[nn.Module], path: Path, target: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(kind(str(target))), str(path))
    target.unlink(missing_ok=True)


def test_setstate_never_runs(tmp_path: Path) -> None:
    path, target = tmp_path / "model.pt", tmp_path / "written"
    script_hostile(WritesWhenLoaded, path, target)
    torch.jit.load(str(path))
    assert target.exists(), "the file does act when it is loaded plainly"
    target.unlink()
    for load in (load_torchscript, lambda given: run_reference(given, {"x": torch.ones(1, 2)}, 1)):
        with pytest.raises(ModelRefused) as caught:
            load(path)
        assert {"__setstate__", "__getstate__", "save"} <= {word for fault in caught.value.faults for word in _words(fault.what)}
    assert list_names(tmp_path) == ["model.pt"]


@pytest.mark.parametrize(("kind", "word"), [(WritesWhenRun, "save"), (ReadsFiles, "from_file")])
def test_operators_that_touch_files_are_refused(kind: type[nn.Module], word: str, tmp_path: Path) -> None:
    path, target = tmp_path / "model.pt", tmp_path / "secret"
    script_hostile(kind, path, target)
    with pytest.raises(ModelRefused) as caught:
        run_reference(path, {"x": torch.ones(1, 2)}, threads=1)
    assert word in _words(caught.value.faults[0].what)
    assert list_names(tmp_path) == ["model.pt"]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter == "_" else " " for letter in text).split()


RELU = "torch.relu("
HIDING = """  def storage_offset(self) -> int:
    return 1
  def other(self, x: Tensor) -> int:
    return x.storage_offset()
  def forward("""
CODE: dict[str, tuple[str, str, str]] = {
    "operator as tensor method": (RELU, 'x.save("written")\n    y0 = torch.relu(', "save"),
    "operator under ops": (RELU, 'ops.aten.save(x, "written")\n    y0 = torch.relu(', "save"),
    "attribute by name": (RELU, 'getattr(x, "save")("written")\n    y0 = torch.relu(', "forbidden"),
    "attribute by computed name": (RELU, 'getattr(x, torch.add("sa", "ve"))\n    y0 = torch.relu(', "computed"),
    "torch as a value": (RELU, "t = torch\n    y0 = torch.relu(", "torch"),
    "ops as a value": (RELU, "t = ops\n    y0 = torch.relu(", "ops"),
    "bound method": (RELU, "f = x.from_file\n    y0 = torch.relu(", "from_file"),
    "import": ("class Plain", "import os\nclass Plain", "Import"),
    "lambda": (RELU, "f = lambda a: a\n    y0 = torch.relu(", "Lambda"),
    "comprehension": (RELU, "f = [a for a in [1]]\n    y0 = torch.relu(", "ListComp"),
    "library class": (RELU, "f = __torch__.torch.classes.quantized.Linear\n    y0 = torch.relu(", "library"),
    "method that is not defined": (RELU, "x.storage_offset()\n    y0 = torch.relu(", "storage_offset"),
    "call of a subscript": (RELU, "[x][0](x)\n    y0 = torch.relu(", "Subscript"),
    "setstate": (
        "  def forward(",
        "  def __setstate__(self, state: int) -> NoneType:\n    return None\n  def forward(",
        "__setstate__",
    ),
    "method that hides an operator": (
        "  def forward(",
        HIDING,
        "storage_offset",
    ),
    "syntax": (RELU, "torch.relu(((", "parsed"),
    "nesting": (RELU, "-" * 300 + "1\n    y0 = torch.relu(", "nested"),
    "nesting beyond the parser": (RELU, "(" * 5000 + "1" + ")" * 5000 + "\n    y0 = torch.relu(", "parsed"),
}


@pytest.mark.parametrize("case", CODE)
def test_code_outside_the_allowlist_is_refused(case: str, save: Save) -> None:
    old, new, word = CODE[case]
    path = edit(save(Plain()), replace_text("test_hostile.py", old, new))
    with pytest.raises(ModelRefused) as caught:
        load_torchscript(path)
    assert any(word in _words(fault.what) for fault in caught.value.faults)
    assert all(fault.where.startswith("code/") for fault in caught.value.faults)
    assert list_names(path.parent) == [path.name]


def test_unknown_operators_are_all_named_before_loading(save: Save) -> None:
    path = edit(
        save(Plain()),
        replace_text("test_hostile.py", RELU, "torch.geqrf(x)\n    y0 = ops.mine.secret(torch.geqrf(x))\n    y1 = torch.relu("),
    )
    edit(path, replace_text("test_hostile.py", "return torch.add(y, x)", "return torch.add(y, ops.prim.rpc_sync(x))"))
    with pytest.raises(UnsupportedOperator) as caught:
        load_torchscript(path)
    assert {fault.where: fault.got for fault in caught.value.faults} == {
        "aten::geqrf": "2 mentions",
        "mine::secret": "1 mention",
        "prim::rpc_sync": "1 mention",
    }


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.geqrf(self.fc(x))[0]
        return torch.trapz(y) + torch.geqrf(x)[0].sum()


def test_unsupported_operators_come_with_advice(save: Save) -> None:
    with pytest.raises(UnsupportedOperator) as caught:
        load_torchscript(save(Unsupported()))
    assert [fault.where for fault in caught.value.faults] == ["aten::geqrf", "aten::trapz"]
    assert all(fault.advice for fault in caught.value.faults)


def test_supported_code_is_left_alone(save: Save) -> None:
    path = edit(save(Plain()), lambda entries: None)
    x = torch.randn(3, 2)
    torch.testing.assert_close(load_torchscript(path).forward({}, {"x": x}), run_reference(path, {"x": x}, threads=1))


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch written",)


PICKLES: dict[str, bytes] = {
    "reduce of os.system": pickle.dumps(Evil(), protocol=2),
    "newer protocol": pickle.dumps(Evil(), protocol=4),
    "eval by name": b"\x80\x02c__builtin__\neval\n(X\x01\x00\x00\x00atR.",
    "library class": b"\x80\x02c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81}b.",
    "instance opcode": b"(ios\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "truncated": b"\x80\x02X\xff\x00\x00\x00abc",
    "no stop": b"\x80\x02]",
    "underflow": b"\x80\x02R.",
    "storage that is none": b"\x80\x02X\x01\x00\x00\x00aQ.",
}


@pytest.mark.parametrize("place", ["data.pkl", "constants.pkl"])
@pytest.mark.parametrize("case", PICKLES)
def test_pickles_outside_the_allowlist_are_refused(case: str, place: str, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = edit(save(Plain()), replace_entry(place, PICKLES[case]))
    monkeypatch.chdir(path.parent)
    with pytest.raises(ModelRefused, match="pickle"):
        load_torchscript(path)
    assert list_names(path.parent) == [path.name]


def _swap(old: bytes, new: bytes) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        name = find_name(entries, "data.pkl")
        assert old in entries[name]
        entries[name] = entries[name].replace(old, new, 1)

    return change


def _drop_record(entries: Entries) -> None:
    del entries[find_name(entries, "data/0")]


CLAIMS: dict[str, Callable[[Entries], None]] = {
    # The weight is stored as a storage of 4 elements, offset 0, shape (2, 2), strides (2, 1).
    "storage larger than its record": _swap(b"K\x04t", b"M\xff\xfft"),
    "shape outside the storage": _swap(b"(K\x02K\x02t", b"(K\x02K\xfft"),
    "strides outside the storage": _swap(b"(K\x02K\x01t", b"(K\xffK\x01t"),
    "negative stride": _swap(b"(K\x02K\x01t", b"(J\xff\xff\xff\xffK\x01t"),
    "offset outside the storage": _swap(b"K\x00(K\x02K\x02t", b"K\x09(K\x02K\x02t"),
    "fewer strides than dimensions": _swap(b"(K\x02K\x01t", b"(K\x01t"),
    "no record": _drop_record,
}


@pytest.mark.parametrize("case", CLAIMS)
def test_tensors_that_reach_outside_their_memory_are_refused(case: str, save: Save) -> None:
    path = edit(save(Plain()), CLAIMS[case])
    with pytest.raises(ModelRefused, match="tensor"):
        load_torchscript(path)


def _with_entry(name: str, content: bytes = b"x", external: int = 0) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry = zipfile.ZipInfo(name)
            entry.external_attr = external
            archive.writestr(entry, content)

    return change


def _with_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/extra/bomb", bytes(20_000_000))


def _with_prefix(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + path.read_bytes())


def _with_comment(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)


def _with_larger_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.index(b"model/data/0", content.index(b"PK\x01\x02")))
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(bytes(content))


ARCHIVES: dict[str, Callable[[Path], None]] = {
    "parent folder": _with_entry("model/../../written"),
    "absolute path": _with_entry("/written"),
    "backslashes": _with_entry("model\\..\\written"),
    "drive": _with_entry("C:/written"),
    "control character": _with_entry("model/a\nb"),
    "entry twice": _with_entry("model/data.pkl", b"\x80\x02]."),
    "symbolic link": _with_entry("model/data/99", b"/etc/passwd", (stat.S_IFLNK | 0o777) << 16),
    "compression bomb": _with_bomb,
    "bytes before the archive": _with_prefix,
    "comment behind the archive": _with_comment,
    "sizes that disagree": _with_larger_size,
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_built_to_mislead_are_refused(case: str, save: Save) -> None:
    path = save(Plain())
    ARCHIVES[case](path)
    with pytest.raises((ModelRefused, ModelUnreadable)) as caught:
        load_torchscript(path)
    assert caught.value.faults
    assert list_names(path.parent) == [path.name]


def test_checkpoints_are_refused_with_advice(tmp_path: Path) -> None:
    for number, (content, options) in enumerate(
        [(Plain(), {}), (Plain().state_dict(), {}), (Plain().state_dict(), {"_use_new_zipfile_serialization": False})]
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(content, path, **options)
        with pytest.raises(ModelRefused, match="checkpoint") as caught:
            load_torchscript(path)
        assert "torch.jit" in caught.value.faults[0].advice


def test_other_archives_are_told_apart(tmp_path: Path) -> None:
    exported = write_entries(
        tmp_path / "m.pt2", {"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data.pkl": b"", "m/code/x": b""}
    )
    with pytest.raises(ModelRefused, match=r"torch\.export"):
        load_torchscript(exported)
    for name, content in {"a.zip": {"a.txt": b"hello"}, "b.zip": {"a/data.pkl": b"", "b/constants.pkl": b""}}.items():
        with pytest.raises(ModelUnreadable, match="not a TorchScript file"):
            load_torchscript(write_entries(tmp_path / name, content))


@pytest.mark.parametrize("content", [b"", b"PK", b"hello world", b"\x08\x07\x12\x07pytorch", bytes(1000)], ids=repr)
def test_files_that_are_no_archives_are_unreadable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable) as caught:
        load_torchscript(path)
    assert caught.value.faults[0].advice


def test_truncated_files_are_unreadable(save: Save) -> None:
    path = save(Plain())
    content = path.read_bytes()
    for length in (5, 100, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelUnreadable):
            load_torchscript(path)


def test_damaged_files_load_or_give_a_typed_error(save: Save) -> None:
    path = save(Plain())
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        at, value = (int(torch.randint(limit, (), generator=generator)) for limit in (len(content), 256))
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        try:
            load_torchscript(path)
        except AuditError:
            refused += 1
    assert 0 < refused < 150


def test_missing_pieces_are_reported(save: Save) -> None:
    path = save(Plain())
    for ending in ("constants.pkl", "data.pkl", ".py"):
        entries = read_entries(path)
        del entries[find_name(entries, ending)]
        with pytest.raises((ModelUnreadable, ModelRefused)):
            load_torchscript(write_entries(path.parent / "less.pt", entries))
