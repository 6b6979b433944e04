"""Real English text that every Python carries: the language reference behind `help()`, as character codes.

It is `pydoc_data.topics` of the standard library, under the Python Software Foundation License. Other Python versions
carry other editions of it, so a rebuilt language model equals the shipped one only on the version that README.md names.
"""

import re
from pydoc_data.topics import topics

import torch
from torch import Tensor

from examples.digits import Examples

CHARACTERS = "".join(chr(code) for code in range(32, 127))
CONTEXT = 48
HELD_OUT_TOPICS = 8
"""Every eighth topic is held out, less the sequences that the other topics contain too."""
SEQUENCES = 128

_RULERS = re.compile(r"([*=~^+|.-])\1{2,}")


def encode_text(text: str) -> Tensor:
    r"""Return the codes of `text` as int64 [characters]: one space between words, no ruler lines, ASCII only.

    >>> encode_text("if\n   x:\n====")
    tensor([73, 70,  0, 88, 26])
    """
    plain = " ".join(_RULERS.sub(" ", text).split())
    return torch.tensor([CHARACTERS.index(character) for character in plain if character in CHARACTERS])


def load_text() -> tuple[Examples, Examples]:
    """Return (training, held out): codes [N, T] and the codes one position later as labels [N, T], T = 48."""
    names = sorted(topics)
    trained = encode_text(" ".join(topics[name] for i, name in enumerate(names) if i % HELD_OUT_TOPICS))
    held_out = _cut_sequences(encode_text(" ".join(topics[name] for name in names[::HELD_OUT_TOPICS])))
    unseen = _find_unseen(held_out.inputs, trained)
    chosen = unseen[torch.linspace(0, len(unseen) - 1, SEQUENCES).long()]
    return _cut_sequences(trained), Examples(held_out.inputs[chosen], held_out.labels[chosen])


def _find_unseen(sequences: Tensor, trained: Tensor) -> Tensor:
    """Return the rows that occur nowhere in the trained text: topics quote each other."""
    text = bytes(trained.tolist())
    return torch.tensor([row for row, codes in enumerate(sequences.tolist()) if bytes(codes) not in text])


def _cut_sequences(codes: Tensor) -> Examples:
    count = (len(codes) - 1) // CONTEXT
    length = count * CONTEXT
    return Examples(codes[:length].view(count, CONTEXT), codes[1 : length + 1].view(count, CONTEXT))
