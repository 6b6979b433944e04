"""Multi-layer perceptron, two inputs and outputs, LSTM and GRU."""

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """16 -> 32 -> 24 -> 10 with ReLU and tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 16] -> [B, 10]."""
        output: Tensor = self.layers(x)
        return output


class TwoInTwoOut(nn.Module):
    """Features and tokens in, class logits and a score out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(12, 16)
        self.tokens = nn.Embedding(50, 16)
        self.mix = nn.Bilinear(16, 16, 20)
        self.classes = nn.Linear(20, 7)
        self.score = nn.Linear(20, 1)

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 12] floats and [B, T] tokens -> [B, 7] and [B]."""
        mixed = torch.relu(self.mix(torch.sigmoid(self.features(features)), self.tokens(tokens).mean(1)))
        return self.classes(mixed), self.score(mixed).squeeze(-1)


class LSTMClassifier(nn.Module):
    """Two bidirectional LSTM layers over embedded tokens; classes from the mean state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.lstm = nn.LSTM(12, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] tokens -> [B, 5]."""
        states, _ = self.lstm(self.embedding(tokens))
        output: Tensor = self.head(states.mean(1))
        return output


class GRULanguageModel(nn.Module):
    """Two GRU layers; logits of the next token at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.gru = nn.GRU(12, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] tokens -> [B, T, 40]."""
        states, _ = self.gru(self.embedding(tokens))
        output: Tensor = self.head(states)
        return output
