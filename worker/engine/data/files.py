"""What is asked of a data file: its format, the columns that are read, and how their values are converted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from worker.engine.data.choosing import Named
from worker.engine.data.pictures import Pictures
from worker.engine.data.rows import Finish


@dataclass(frozen=True)
class Conversion:
    """How an array's values are changed: padded to a length first, then as rows.Finish says."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pad_to: int | None = None
    pad_value: float = 0.0

    @property
    def finish(self) -> Finish:
        """What is done to the values when they are read."""
        return Finish(self.dtype, self.shape, self.scale, self.mean, self.std)

    @property
    def makes_float(self) -> bool:
        """Whether the values become float32 before `dtype`."""
        return self.scale is not None or bool(self.mean) or bool(self.std)


@dataclass(frozen=True)
class DataFile:
    """A data file and how it is read.

    columns: model input -> column. target: the labels, by name or position. classes: the names of the classes, in the model's
    order. conversions: by model input, and for the labels under the name of their column. pictures: how encoded ones become
    arrays. scratch: where decoded rows go that do not fit into memory.
    """

    path: Path
    columns: tuple[tuple[str, Named], ...] = ()
    target: str | int = "labels"
    format: str = "auto"
    classes: tuple[str, ...] = ()
    conversions: tuple[tuple[str, Conversion], ...] = ()
    pictures: Pictures | None = None
    scratch: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """What model and loss need of it.

    inputs: the model's inputs and their dtypes, where it states them. labels: whether there must be labels. label_dtype: what
    numbers without a type become in them.
    """

    inputs: Mapping[str, torch.dtype | None] = field(default_factory=dict)
    labels: bool = True
    label_dtype: torch.dtype | None = None
