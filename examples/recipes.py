"""The shipped networks: what each is made of and how it is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from examples.digits import Examples, load_split
from examples.networks import CharacterTransformer, DigitsCNN, DigitsMLP, fuse_batchnorm
from examples.text import CHARACTERS, CONTEXT, load_text
from examples.training import Recipe, train

SEED = 1
CNN = Recipe(epochs=20, batch=64, learning_rate=0.01)
STURDY_CNN = Recipe(epochs=20, batch=64, learning_rate=0.004, alpha=0.5, epsilon=0.4)
MLP = Recipe(epochs=40, batch=64, learning_rate=0.005)
CHARACTER_LM = Recipe(epochs=6, batch=32, learning_rate=0.01, weight_decay=0.01)


@dataclass(frozen=True)
class Shipped:
    """One example: the trained network in evaluation mode and float64, and where its data comes from."""

    description: str
    data: str
    load_data: Callable[[], tuple[Examples, Examples]]
    train_network: Callable[[int], nn.Module]


@cache
def train_cnn(seed: int) -> DigitsCNN:
    """Return the convolutional net with its BatchNorms."""
    torch.manual_seed(seed)
    network = DigitsCNN().double()
    train(network, load_split()[0], CNN, seed)
    return network


def train_fused_cnn(seed: int) -> DigitsCNN:
    """Return the convolutional net with its BatchNorms folded: the brittle twin."""
    return fuse_batchnorm(train_cnn(seed))


def train_sturdy_cnn(seed: int) -> DigitsCNN:
    """Return the brittle twin trained on against corruption of its (folded) weights."""
    network = train_fused_cnn(seed)
    train(network, load_split()[0], STURDY_CNN, seed)
    return network


def train_mlp(seed: int) -> DigitsMLP:
    """Return the multi-layer perceptron."""
    torch.manual_seed(seed)
    network = DigitsMLP().double()
    train(network, load_split()[0], MLP, seed)
    return network


def train_characters(seed: int) -> CharacterTransformer:
    """Return the character-level language model."""
    torch.manual_seed(seed)
    network = CharacterTransformer(len(CHARACTERS), CONTEXT).double()
    train(network, load_text()[0], CHARACTER_LM, seed)
    return network


SHIPPED = {
    "digits_cnn": Shipped("residual convolutional net, BatchNorm folded (brittle)", "digits", load_split, train_fused_cnn),
    "digits_cnn_unfused": Shipped("the same net with its BatchNorms", "digits", load_split, train_cnn),
    "digits_cnn_sturdy": Shipped("the same net, trained on against corruption (sturdy)", "digits", load_split, train_sturdy_cnn),
    "digits_mlp": Shipped("multi-layer perceptron, two hidden layers", "digits", load_split, train_mlp),
    "characters": Shipped("character-level transformer, two blocks", "text", load_text, train_characters),
}
TORCHSCRIPT_ONLY = {"digits_cnn_unfused"}
"""The ONNX exporter folds BatchNorm itself, so the unfused net exists in TorchScript alone."""
