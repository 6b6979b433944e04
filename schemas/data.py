"""DataReference: which file an audit measures the loss on, and how it is read. docs/data.md describes every field."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Input, Name, PositiveFloat, check_unique
from schemas.references import Reference

Dtype = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
Columns = Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=100_000)]


class ArrayConversion(Input):
    """What is done to one array: rows are padded and reshaped, values become (value * scale - mean) / std, then the dtype."""

    dtype: Dtype | None = None
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    pad_to: Annotated[int, Field(ge=1, le=2**20)] | None = None
    pad_value: float = 0.0


PictureSize = Annotated[int, Field(ge=1, le=8192)]


class Preprocess(Input):
    """How pictures become arrays: resize (one number: the shorter side), crop the centre, then (byte * scale - mean) / std."""

    resize: PictureSize | tuple[PictureSize, PictureSize] | None = None
    crop: PictureSize | tuple[PictureSize, PictureSize] | None = None
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"
    color: Literal["rgb", "grey"] = "rgb"
    scale: float | None = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    layout: Literal["channels_first", "channels_last"] = "channels_first"

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        channels = 3 if self.color == "rgb" else 1
        wrong = [name for name, numbers in (("mean", self.mean), ("std", self.std)) if len(numbers) not in {0, 1, channels}]
        if wrong:
            message = f"{' and '.join(wrong)} must have one number or {channels}, one per channel of color {self.color}"
            raise ValueError(message)
        return self


class DataReference(Reference):
    """The data the loss is measured on: arrays of one length, one row per example. docs/data.md has an example per format."""

    format: Literal["auto", "npz", "npy", "safetensors", "parquet", "arrow", "csv", "jsonl", "images", "tar", "datasets"] = "auto"
    inputs: dict[Name, Columns] = {}
    target: Name | int = "labels"
    classes: Annotated[tuple[Name, ...], Field(max_length=100_000), AfterValidator(check_unique)] = ()
    preprocess: Preprocess | None = None
    convert: Annotated[dict[Name, ArrayConversion], Field(max_length=256)] = {}


class AuditData(DataReference):
    """The data of the audit. max_examples: search on a seeded sample of so many, measure on another; null: on all of the data."""

    max_examples: Annotated[int, Field(ge=2)] | None = None
