"""Check the pickles of a TorchScript archive: their opcodes, the names they mention, and the tensors they claim."""

import io
import pickle
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import Fault
from worker.engine.models.aten.allowlist import split_names

ELEMENT_BYTES: dict[str, int] = {
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}

GLOBALS: frozenset[str] = frozenset(
    [
        "torch._utils _rebuild_tensor_v2",
        "collections OrderedDict",
        *(f"torch {name}" for name in ELEMENT_BYTES),
        *(
            f"torch.jit._pickle {name}"
            for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
        ),
    ]
)
"""What a TorchScript pickle may name beside the classes of its own code."""

OPCODES = split_names("""
PROTO STOP MARK GLOBAL NEWOBJ BUILD REDUCE BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1
BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS
EMPTY_DICT SETITEM SETITEMS
""")
"""What torch's pickler writes."""


def check_pickle(place: str, content: bytes) -> Iterator[Fault]:
    """Yield what a pickle holds that TorchScript's own pickler does not write; nothing is executed."""
    try:
        for opcode, argument, position in pickletools.genops(content):
            if opcode.name not in OPCODES:
                yield Fault(
                    "a pickle uses an opcode that TorchScript does not write", where=f"{place} at {position}", got=opcode.name
                )
                return
            if opcode.name.endswith("BINPUT") and int(argument or 0) > len(content):
                yield Fault("a pickle asks for more memory than it can use", where=f"{place} at {position}", got=str(argument))
                return
            if opcode.name == "GLOBAL" and not is_known_global(str(argument)):
                yield Fault(
                    "a pickle names something outside TorchScript's own types",
                    where=f"{place} at {position}",
                    expected="the archive's classes and torch's tensor types",
                    got=str(argument).replace(" ", "."),
                    advice="save a module of plain tensors, numbers and lists",
                )
    except (ValueError, UnicodeDecodeError, IndexError) as error:
        yield Fault("a pickle is damaged", where=place, got=str(error))


def is_known_global(name: str) -> bool:
    """Return whether a pickle may name this: `module name`."""
    if name.startswith("__torch__.torch.classes"):
        return False  # classes that live in the library, with a __setstate__ of their own
    return name in GLOBALS or name.startswith(("__torch__.", "__torch__ "))


@dataclass(frozen=True)
class StorageClaim:
    """A storage as the pickle describes it."""

    key: str
    element_bytes: int
    elements: int


class _Inert:
    """Stands for every class of the archive: takes any state and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _ClaimReader(pickle.Unpickler):  # noqa: S301 - find_class below resolves no real name
    """Rebuilds the structure of a checked pickle from inert objects and collects what its tensors claim."""

    def __init__(self, place: str, content: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self.faults: list[Fault] = []
        self._place = place
        self._folder = place.removesuffix(".pkl")
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        """Return an inert stand-in; only allowlisted names reach this."""
        if name == "_rebuild_tensor_v2":
            return self._note_tensor
        if name in ELEMENT_BYTES:
            return name
        if module == "torch.jit._pickle":
            return lambda values, *_: values
        return dict if name == "OrderedDict" else _Inert

    def persistent_load(self, pid: Any) -> StorageClaim:
        """Check a storage against the record that it names."""
        _, kind, key, _, elements = pid
        claim = StorageClaim(str(key), ELEMENT_BYTES[kind], int(elements))
        held = self._sizes.get(f"{self._folder}/{claim.key}")
        if held is None or not 0 <= claim.elements * claim.element_bytes <= held:
            self.faults.append(
                Fault(
                    "a tensor claims more memory than the archive holds for it",
                    where=f"{self._folder}/{claim.key}",
                    expected=f"{claim.elements * claim.element_bytes} bytes",
                    got="no record" if held is None else f"{held} bytes",
                )
            )
        return claim

    def _note_tensor(self, storage: StorageClaim, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> None:
        regular = (
            offset >= 0 and len(shape) == len(strides) and all(size >= 0 for size in shape) and all(step >= 0 for step in strides)
        )
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=False))
        if not regular or (0 not in shape and last >= storage.elements):
            self.faults.append(
                Fault(
                    "a tensor reaches outside its storage",
                    where=f"{self._folder}/{storage.key}",
                    expected=f"{storage.elements} elements",
                    got=f"offset {offset}, shape {tuple(shape)}, strides {tuple(strides)}",
                )
            )


def read_claims(place: str, content: bytes, sizes: Mapping[str, int]) -> list[Fault]:
    """Return which tensors of a checked pickle reach outside what the archive holds.

    Args:
        place: data.pkl or constants.pkl; the storages stand in the folder of that name.
        content: the pickle, which has passed check_pickle.
        sizes: the size in bytes of every record of the archive.
    """
    reader = _ClaimReader(place, content, sizes)
    try:
        reader.load()
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        EOFError,
        RecursionError,
    ) as error:
        return [Fault("a pickle is not built as TorchScript builds it", where=place, got=f"{type(error).__name__}: {error}")]
    return reader.faults
