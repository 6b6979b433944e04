"""Decode pictures, by Pillow: resized, cropped and kept as bytes; what is done to the numbers is a rows.Finish."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.data.rows import Finish
from worker.engine.data.tables import Problems

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "GIF")
"""Read by Pillow's own code; none of them runs another program or names another file."""
SUFFIXES = frozenset({"png", "jpg", "jpeg", "bmp", "webp", "ppm", "pgm", "gif"})
MODES = frozenset({"1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""With 8 bits per channel; wider ones would be clipped without a word."""
MAX_PIXELS = 64 * 2**20
MAX_PICTURE_BYTES = 128 * 2**20
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """How pictures become arrays: resize, crop the centre, one or three channels, then (byte * scale - mean) / std.

    resize: of the shorter side, or height and width. crop: height and width, or one number for both. channels_last: rows are
    [height, width, channels], else [channels, height, width]. scale: None keeps bytes. masks: every pixel is the number of a
    class, and rows are [height, width].
    """

    resize: Size | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"
    color: str = "rgb"
    scale: float | None = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels_last: bool = False
    masks: bool = False

    def for_masks(self) -> "Pictures":
        """Return how pictures of labels are read that belong to pictures read so: of the same size, and no number invented."""
        return Pictures(self.resize, self.crop, "nearest", scale=None, masks=True)

    def make_finish(self, dtype: torch.dtype | None) -> Finish:
        """Return what is done to the bytes of decoded pictures."""
        return Finish(dtype or (torch.int64 if self.masks else None), None, self.scale, self.mean, self.std, self.channels_last)


def decode_pictures(contents: Sequence[bytes], asked: Pictures, row: int, name: str, problems: Problems) -> NDArray[Any] | None:
    """Return pictures as bytes [n, channels, height, width], or channels last.

    Args:
        contents: the encoded pictures.
        asked: how they become arrays.
        row: the number of the first.
        name: the column, for faults.
        problems: notes those that cannot be decoded or have another size than the first.

    Returns:
        The array; None when something was noted.
    """
    arrays: list[NDArray[Any]] = []
    before = problems.count
    for index, content in enumerate(contents):
        try:
            array = _decode(content, asked)
        except _find_errors() as error:
            problems.add(row + index, name, "a picture cannot be decoded", f"one of {', '.join(FORMATS)}", f"{error}")
            continue
        if arrays and array.shape != arrays[0].shape:
            expected = f"{list(arrays[0].shape)} as before; data.preprocess has resize and crop"
            problems.add(row + index, name, "a picture has another size than those before", expected, str(list(array.shape)))
            continue
        arrays.append(array)
    return np.stack(arrays) if problems.count == before and arrays else None


def _find_errors() -> tuple[type[BaseException], ...]:
    """Return what Pillow raises for files that are damaged or not what they say."""
    from PIL import Image  # noqa: PLC0415 - imported by the audit process beforehand, by others when they need it

    return (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def _decode(content: bytes, asked: Pictures) -> NDArray[Any]:
    from PIL import Image  # noqa: PLC0415

    if len(content) > MAX_PICTURE_BYTES:
        message = f"{len(content)} bytes, above {MAX_PICTURE_BYTES}"
        raise ValueError(message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        message = f"{image.width} x {image.height} pixels, above {MAX_PIXELS}"
        raise ValueError(message)
    if image.mode not in MODES:
        message = f"pixels of kind {image.mode}, which have no 8 bits per channel"
        raise ValueError(message)
    if asked.masks:
        if image.mode not in {"1", "L", "P"}:
            message = f"pixels of kind {image.mode}, which are no numbers of classes"
            raise ValueError(message)
        return np.asarray(_fit(image, asked)).astype(np.uint8)
    fitted = _fit(image.convert("RGB" if asked.color == "rgb" else "L"), asked)
    array = np.asarray(fitted, np.uint8).reshape(fitted.height, fitted.width, -1)
    return array if asked.channels_last else np.ascontiguousarray(array.transpose(2, 0, 1))


def _fit(image: "Image", asked: Pictures) -> "Image":
    from PIL.Image import Resampling  # noqa: PLC0415

    if asked.resize is not None:
        height, width = _find_size(asked.resize, image.height, image.width)
        image = image.resize((width, height), Resampling[asked.interpolation.upper()])
    if asked.crop is not None:
        height, width = (asked.crop, asked.crop) if isinstance(asked.crop, int) else asked.crop
        if height > image.height or width > image.width:
            message = f"{image.height} x {image.width} pixels, fewer than the crop of {height} x {width}"
            raise ValueError(message)
        top, left = round((image.height - height) / 2), round((image.width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return image


def _find_size(resize: Size, height: int, width: int) -> tuple[int, int]:
    """Return height and width; one number is the shorter side, and the other keeps the picture's proportions."""
    if not isinstance(resize, int):
        return resize
    longer = max(1, int(resize * max(height, width) / min(height, width)))
    if longer * resize > MAX_PIXELS:
        message = f"{height} x {width} pixels, too long and thin for resize {resize}"
        raise ValueError(message)
    return (resize, longer) if height <= width else (longer, resize)
