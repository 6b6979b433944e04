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
"""Every eighth topic is held out: no sentence of the held-out sequences was trained on."""
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
    held_out = [topics[name] for name in names[::HELD_OUT_TOPICS]]
    training = [topics[name] for i, name in enumerate(names) if i % HELD_OUT_TOPICS]
    everything = _cut_sequences(encode_text(" ".join(held_out)))
    spread = torch.linspace(0, len(everything.labels) - 1, SEQUENCES).long()
    return _cut_sequences(encode_text(" ".join(training))), Examples(everything.inputs[spread], everything.labels[spread])


def _cut_sequences(codes: Tensor) -> Examples:
    count = (len(codes) - 1) // CONTEXT
    length = count * CONTEXT
    return Examples(codes[:length].view(count, CONTEXT), codes[1 : length + 1].view(count, CONTEXT))
