"""Choose the columns of a data file that feed the model's inputs and the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from schemas.errors import DataMismatch, Fault

Named = str | tuple[str, ...]
"""A column's name; or names and globs of several columns, which form one vector."""


@dataclass(frozen=True)
class Chosen:
    """The columns behind one array; `joined` ones form a vector, in their order."""

    names: tuple[str, ...]
    joined: bool = False


def choose_columns(
    names: Sequence[str], given: Mapping[str, Named], target: str | int | None, input_names: Sequence[str], *, scalar: bool
) -> tuple[dict[str, Chosen], str | None]:
    """Return the columns of every model input, and that of the labels.

    Args:
        names: the columns of the file, in order.
        given: model input -> column, list of columns, or glob on columns; may be empty when the model has one input, whose
            column is then the one called like the input, else `inputs`, else the only one that is not the target.
        target: the name or position of the labels; None when none are needed.
        input_names: the inputs that the model needs.
        scalar: every column is one number, so all but the labels together are the one input's vector.

    Returns:
        The choice.

    Raises:
        DataMismatch: with every column that is missing.
    """
    listed = f"arrays in the file: {sorted(names)[:50]}"
    faults = [
        Fault(
            f"data.inputs names model input {name!r}, which the model does not have",
            "/data/inputs",
            f"one of {list(input_names)}",
            name,
            "correct the name in data.inputs",
        )
        for name in given
        if name not in input_names
    ]
    labels = _find_target(names, target)
    chosen = {}
    for name in input_names:
        asked = given.get(name)
        found = _guess(name, names, labels, alone=len(input_names) == 1, scalar=scalar) if asked is None else _match(asked, names)
        missing = [column for column in found.names if column not in names]
        if missing or not found.names:
            advice = "name the array of each model input in data.inputs, as {model input: array}"
            expected = f"an array named {', '.join(map(repr, missing or [str(asked)]))}"
            faults.append(Fault(f"no array for model input {name!r}", "/data/inputs", expected, listed, advice))
        chosen[name] = found
    if target is not None and labels not in names:
        advice = "name the array of labels in data.target"
        expected = f"an array named {target!r}" if isinstance(target, str) else f"more than {target} arrays"
        faults.append(Fault("the labels are missing", "/data/target", expected, listed, advice))
    if faults:
        raise DataMismatch(*faults)
    return chosen, labels


def _find_target(names: Sequence[str], target: str | int | None) -> str | None:
    if isinstance(target, int):
        return names[target] if -len(names) <= target < len(names) else None
    return target


def _match(asked: Named, names: Sequence[str]) -> Chosen:
    """Return the columns that a request names; globs give theirs in the file's order."""
    if isinstance(asked, str) and (asked in names or not _is_glob(asked)):
        return Chosen((asked,))
    patterns = (asked,) if isinstance(asked, str) else asked
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = (
            [pattern] if pattern in names or not _is_glob(pattern) else [name for name in names if fnmatchcase(name, pattern)]
        )
        found |= dict.fromkeys(matched)
    return Chosen(tuple(found), joined=True)


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _guess(name: str, names: Sequence[str], labels: str | None, *, alone: bool, scalar: bool) -> Chosen:
    others = tuple(column for column in names if column != labels)
    if name in names or not alone:
        return Chosen((name,))
    if "inputs" in names:
        return Chosen(("inputs",))
    if scalar and others:
        return Chosen(others, joined=True)
    return Chosen(others if len(others) == 1 else ("inputs",))
