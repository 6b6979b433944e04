"""The example networks in plain PyTorch: a residual convolutional net, an MLP and a character transformer."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 10


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), each convolution with its BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W] for [B, C, H, W]."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


class DigitsCNN(nn.Module):
    """A small residual network: stem, block at 8 x 8, stride 2, block at 4 x 4, mean over space, linear."""

    def __init__(self, width: int = 16, deep_width: int = 20) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm: nn.Module = nn.BatchNorm2d(width)
        self.block1 = ResidualBlock(width)
        self.down = nn.Conv2d(width, deep_width, 3, stride=2, padding=1, bias=False)
        self.down_norm: nn.Module = nn.BatchNorm2d(deep_width)
        self.block2 = ResidualBlock(deep_width)
        self.head = nn.Linear(deep_width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 10] for images [B, 1, 8, 8]."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = self.block1(x)
        x = torch.relu(self.down_norm(self.down(x)))
        x = self.block2(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class DigitsMLP(nn.Module):
    """Two hidden layers of rectified units over the 64 pixels."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(64, width)
        self.hidden2 = nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 10] for images [B, 1, 8, 8]."""
        x = torch.relu(self.hidden1(x.flatten(1)))
        return self.head(torch.relu(self.hidden2(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, width] for [B, T, width]; position t sees positions 0 to t."""
        batch, length, width = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and a two-layer MLP, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, T, width] for [B, T, width]."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(nn.functional.gelu(self.expand(self.norm2(x))))  # type: ignore[no-any-return]


class CharacterTransformer(nn.Module):
    """A character-level language model: it predicts the next character at every position."""

    def __init__(self, characters: int, context: int, width: int = 40, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.positions = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, T, characters] for character codes [B, T], T = context."""
        hidden = self.characters(x) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))  # type: ignore[no-any-return]


def fuse_batchnorm(network: DigitsCNN) -> DigitsCNN:
    """Return a copy, in evaluation mode, whose BatchNorms are folded into the convolutions before them.

    Exporters fold BatchNorm, each with its own rounding. Folding first, in the network's own dtype (float64
    here), makes all files of one network carry the same weights.
    """
    fused = copy.deepcopy(network).eval()
    pairs = [
        (fused, "stem", "stem_norm"),
        (fused, "down", "down_norm"),
        *((block, f"conv{i}", f"norm{i}") for block in (fused.block1, fused.block2) for i in (1, 2)),
    ]
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return fused.requires_grad_(True)  # noqa: FBT003 - the signature is torch's
