"""The libraries that single data formats need."""

import importlib

READERS = ("pyarrow.csv", "pyarrow.ipc", "pyarrow.parquet", "PIL.Image")
"""Each is imported where its format is read; together they take a tenth of a second."""


def import_readers() -> None:
    """Import all of them: an audit process can load no code any more once it has confined itself."""
    for name in READERS:
        importlib.import_module(name)
    importlib.import_module("PIL.Image").init()  # its formats are modules, too
