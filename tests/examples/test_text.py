"""The text data: real characters, next-character labels, nothing held out was trained on."""

from examples.text import CHARACTERS, CONTEXT, encode_text, load_text
from tests.examples.artifacts import ARTIFACTS, load_data


def decode(codes: list[int]) -> str:
    return "".join(CHARACTERS[code] for code in codes)


def test_encoding_keeps_words_and_drops_rulers_line_ends_and_other_alphabets() -> None:
    codes = encode_text("Two\n***\n  words: na\u00efve\n=====\nend").tolist()
    assert decode(codes) == "Two words: nave end"


def test_labels_are_the_inputs_one_character_later() -> None:
    for examples in load_text():
        assert examples.inputs.shape[1] == CONTEXT
        assert (examples.inputs[:, 1:] == examples.labels[:, :-1]).all()


def test_the_shipped_sequences_are_readable_english() -> None:
    inputs, labels = load_data(ARTIFACTS / "text.npz")
    assert inputs.shape == labels.shape == (128, CONTEXT)
    text = " ".join(decode(row) for row in inputs.tolist())
    assert (inputs[:, 1:] == labels[:, :-1]).all()
    assert all(f" {word} " in text for word in ("the", "of", "is", "a", "to"))


def test_held_out_sequences_were_not_trained_on() -> None:
    training, held_out = load_text()
    trained = decode(training.inputs.flatten().tolist())
    assert [row for row in map(decode, held_out.inputs.tolist()) if row in trained] == []
