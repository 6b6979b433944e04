"""Pictures become the numbers that the declared steps give, and files that are none are named."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from schemas.errors import DataUnreadable, Fault
from tests.worker.engine.data.writers import encode_npy, write_tar, write_zip
from worker.engine.data import spool
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import Conversion, DataFile, Wanted
from worker.engine.data.pictures import Pictures
from worker.engine.data.reading import load_data

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 8, 3), np.uint8)
WANTED = Wanted({"x": None}, label_dtype=torch.int64)


def encode(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(path: Path, *contents: bytes) -> Path:
    return write_tar(path, {f"data/{'ba'[index]}/{index}.png": content for index, content in enumerate(contents)})


def read(path: Path, pictures: Pictures | None = None, **fields: Any) -> Dataset:
    return load_data(DataFile(path, pictures=pictures or Pictures(), scratch=path.parent, **fields), WANTED)


def read_pixels(folder: Path, pictures: Pictures) -> NDArray[Any]:
    path = write_folder(folder / "data", *(encode(pixels) for pixels in PIXELS))
    # Classes in alphabetical order: b/0.png comes after a/1.png.
    return read(path, pictures).inputs["x"].numpy()[::-1]


def refuse(path: Path, pictures: Pictures | None = None, **fields: Any) -> tuple[Fault, ...]:
    with pytest.raises(DataUnreadable) as caught:
        read(path, pictures, **fields)
    return caught.value.faults


def test_bytes_are_scaled_and_channels_come_first(tmp_path: Path) -> None:
    found = read_pixels(tmp_path, Pictures())
    assert found.dtype == np.float32
    assert np.allclose(found, PIXELS.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    raw = read_pixels(tmp_path, Pictures(scale=None, channels_last=True))
    assert raw.dtype == np.uint8
    assert np.array_equal(raw, PIXELS)


@pytest.mark.parametrize("last", [False, True])
def test_mean_and_std_are_per_channel(tmp_path: Path, last: bool) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    found = read_pixels(tmp_path, Pictures(mean=mean, std=std, channels_last=last))
    wanted = (PIXELS / 255 - np.array(mean)) / np.array(std)
    assert np.allclose(found, wanted if last else wanted.transpose(0, 3, 1, 2), atol=1e-6)


def test_resizing_keeps_proportions_and_the_crop_is_the_centre(tmp_path: Path) -> None:
    halved = PIXELS.reshape(2, 6, 2, 4, 2, 3).mean((2, 4))
    found = read_pixels(tmp_path, Pictures(resize=4, interpolation="box", scale=1.0, channels_last=True))
    assert found.shape == (2, 6, 4, 3)
    # Pillow rounds after each of its two passes, along rows and along columns.
    assert np.abs(found - halved).max() <= 1
    doubled = PIXELS.repeat(2, 1).repeat(2, 2)
    found = read_pixels(
        tmp_path, Pictures(resize=(24, 16), crop=(10, 6), interpolation="nearest", scale=None, channels_last=True)
    )
    assert np.array_equal(found, doubled[:, 7:17, 5:11])


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", encode(PIXELS[0, :, :, 0]), encode(PIXELS[1, :, :, 0]))
    assert np.array_equal(read(path, Pictures(color="grey", scale=None)).inputs["x"].numpy()[::-1, 0], PIXELS[..., 0])
    assert read(path).inputs["x"].shape == (2, 3, 12, 8)


def test_folders_are_classes_in_alphabetical_order_or_as_listed(tmp_path: Path) -> None:
    contents = [encode(pixels) for pixels in PIXELS]
    for write in (write_tar, write_zip):
        path = write(tmp_path / "d", {"dog/0.png": contents[0], "cat/1.png": contents[1]})
        assert read(path).target.tolist() == [0, 1]
        assert read(path, classes=("dog", "cat")).target.tolist() == [1, 0]
        [fault] = refuse(path, classes=("dog", "bird"))
        assert "'cat'" in fault.got
    flat = write_tar(tmp_path / "d", {"0.png": contents[0], "1.png": contents[1]})
    assert len(load_data(DataFile(flat, pictures=Pictures()), Wanted({"x": None}, labels=False))) == 2


def test_samples_are_files_of_one_name(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for index, name in enumerate(("b/0002", "a.1/0001")):
        about = {"label": index, "box": [index, 2]}
        members |= {f"{name}.seg.png": encode(PIXELS[index]), f"{name}.cls": b" 7\n", f"{name}.json": json.dumps(about).encode()}
        members |= {f"{name}.npy": encode_npy(np.full((2, 2), index, np.float32)), f"{name}.txt": b"cat"}
    shards = {
        f"{index}.tar": write_tar(tmp_path / "s", dict(list(members.items())[index * 5 :][:5])).read_bytes() for index in range(2)
    }
    wanted = Wanted({"image": None, "array": torch.float32, "box": torch.int64}, label_dtype=torch.int64)
    columns = (("image", "seg.png"), ("array", "npy"), ("box", "json.box"))
    order = {"samples": [1, 0], "shards": [0, 1]}
    for name, content in (("samples", members), ("shards", shards)):
        path = write_tar(tmp_path / name, content)
        dataset = load_data(DataFile(path, columns, "json.label", pictures=Pictures(scale=None, channels_last=True)), wanted)
        assert dataset.target.tolist() == order[name]
        assert np.array_equal(dataset.inputs["image"].numpy(), PIXELS[order[name]])
        assert dataset.inputs["array"][:, 1, 1].tolist() == order[name]
        assert dataset.inputs["box"].tolist() == [[index, 2] for index in order[name]]
    path = tmp_path / "samples"
    assert load_data(DataFile(path, columns, "cls", pictures=Pictures()), wanted).target.tolist() == [7, 7]
    assert load_data(DataFile(path, columns, "txt", classes=("dog", "cat"), pictures=Pictures()), wanted).target.tolist() == [
        1,
        1,
    ]
    with pytest.raises(DataUnreadable) as caught:
        load_data(DataFile(path, columns, "txt", pictures=Pictures()), wanted)
    assert [fault.where for fault in caught.value.faults] == ["/data/txt/0", "/data/txt/1"]


def test_masks_keep_the_numbers_of_their_pixels(tmp_path: Path) -> None:
    numbers = np.arange(96, dtype=np.uint8).reshape(12, 8)
    palette = Image.fromarray(numbers, "L").convert("P")
    palette.putdata(numbers.ravel())
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    for content in (encode(numbers), buffer.getvalue()):
        path = write_tar(tmp_path / "d", {"0.jpg": encode(PIXELS[0], "JPEG"), "0.seg.png": content})
        dataset = read(path, Pictures(resize=16, crop=(20, 14)), columns=(("x", "jpg"),), target="seg.png")
        assert dataset.inputs["x"].shape == (1, 3, 20, 14)
        assert np.array_equal(dataset.target.numpy()[0], numbers.repeat(2, 0).repeat(2, 1)[2:22, 1:15])
    path = write_tar(tmp_path / "d", {"0.jpg": encode(PIXELS[0], "JPEG"), "0.seg.png": encode(PIXELS[0])})
    assert "no numbers of classes" in refuse(path, columns=(("x", "jpg"),), target="seg.png")[0].got


def test_samples_without_a_file_are_named(tmp_path: Path) -> None:
    members = {"0.npy": encode_npy(np.ones(2)), "0.cls": b"1", "1.npy": encode_npy(np.array([{}])), "1.id": b"1"}
    path = write_tar(tmp_path / "d", members)
    faults = refuse(path, columns=(("x", "npy"),), target="cls")
    assert [fault.where for fault in faults] == ["/data/npy/1", "/data/cls/1"]


def test_pictures_in_columns_are_decoded_and_their_paths_ignored(tmp_path: Path) -> None:
    contents = [encode(pixels) for pixels in PIXELS]
    for column in (contents, [{"bytes": content, "path": "/etc/passwd"} for content in contents]):
        parquet.write_table(pa.table({"image": column, "labels": [0, 1]}), tmp_path / "d")
        dataset = read(tmp_path / "d", Pictures(scale=None, channels_last=True))
        assert np.array_equal(dataset.inputs["x"].numpy(), PIXELS)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    lost = pa.array([{"bytes": None, "path": "/etc/passwd"}], kind)
    parquet.write_table(pa.table({"image": lost, "labels": [0]}), tmp_path / "d")
    assert [fault.where for fault in refuse(tmp_path / "d")] == ["/data/image/0"]


def test_larger_than_memory_they_lie_in_scratch_as_bytes_and_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_folder(tmp_path / "data", *(encode(pixels) for pixels in PIXELS))
    pictures = Pictures(mean=(0.4, 0.5, 0.6), std=(0.2,))
    held = read(path, pictures)
    monkeypatch.setattr(spool, "HELD_BYTES", 0)
    stored = read(path, pictures)
    [scratch] = [file for file in tmp_path.glob("rows-*") if file.stat().st_size == PIXELS.nbytes]
    assert scratch.exists()
    assert torch.equal(stored.inputs["x"], held.inputs["x"])
    assert torch.equal(stored.take([1]).inputs["x"], held.inputs["x"][1:])


def make_bomb(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_files_that_are_no_pictures_are_named_by_row(tmp_path: Path) -> None:
    good = encode(PIXELS[0])
    deep = io.BytesIO()
    Image.fromarray(np.ones((12, 8), np.uint16)).save(deep, "PNG")
    bad = {
        "truncated": good[:200],
        "text": b"no picture",
        "empty": b"",
        "bomb": make_bomb(9000, 8000),
        "larger bomb": make_bomb(60_000, 60_000),
        "other size": encode(PIXELS[0][:5]),
        "16 bits": deep.getvalue(),
        "program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    path = write_tar(
        tmp_path / "d", {"a/00.png": good} | {f"a/{index + 1:02}.png": content for index, content in enumerate(bad.values())}
    )
    faults = refuse(path)
    assert [fault.where for fault in faults] == [f"/data/images/{index + 1}" for index in range(len(bad))]
    said = dict(zip(bad, (fault.got for fault in faults), strict=True))
    assert "pixels, above" in said["bomb"]
    assert "no 8 bits" in said["16 bits"]
    assert refuse(write_folder(tmp_path / "d", good), Pictures(crop=20))[0].where == "/data/images/0"
    assert refuse(write_folder(tmp_path / "d", encode(np.ones((1, 4000, 3), np.uint8))), Pictures(resize=8000))


def test_pictures_need_a_declared_preprocessing(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", encode(PIXELS[0]))
    with pytest.raises(DataUnreadable, match="nothing says how"):
        load_data(DataFile(path), WANTED)
    assert "data.preprocess" in refuse(path, conversions=(("x", Conversion(scale=2.0)),))[0].advice
    assert read(path, conversions=(("x", Conversion(dtype=torch.float64)),)).inputs["x"].dtype == torch.float64
