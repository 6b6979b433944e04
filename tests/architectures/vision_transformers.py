"""ViT- and Swin-like networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Multi-head self-attention with one joint projection, by scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return output


class ViTBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patch embedding, class token, learned positions, two blocks."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(ViTBlock(width, 4), ViTBlock(width, 4))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches], 1) + self.pos_embed
        output: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return output


def index_relative_positions(window: int) -> Tensor:
    """Return, per pair of positions in a window, the row of its offset in the bias table."""
    axis = torch.arange(window)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offsets = points[:, :, None] - points[:, None, :] + window - 1
    return offsets[0] * (2 * window - 1) + offsets[1]


def mask_shifted_windows(size: int, window: int, shift: int) -> Tensor:
    """Return [windows, window^2, window^2]: -100 between positions that the cyclic shift made neighbours."""
    region = torch.zeros(size)
    region[size - window :] = 1
    region[size - shift :] = 2
    cells = region[:, None] * 3 + region[None, :]
    count = size // window
    flat = cells.view(count, window, count, window).permute(0, 2, 1, 3).reshape(count * count, window * window)
    return torch.where(flat[:, None, :] == flat[:, :, None], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Attention inside windows with a relative position bias; `shift` > 0 rolls the image first."""

    relative_index: Tensor
    mask: Tensor

    def __init__(self, width: int, heads: int, size: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.size, self.window, self.shift = heads, size, window, shift
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(0.1 * torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_index", index_relative_positions(window))
        windows = (size // window) ** 2
        mask = mask_shifted_windows(size, window, shift) if shift else torch.zeros(windows, window**2, window**2)
        self.register_buffer("mask", mask)

    def expand_bias(self) -> Tensor:
        """[1, heads, window^2, window^2]: the table's entry of every pair; a frozen file stores this instead of the table."""
        area = self.window * self.window
        return self.relative_bias[self.relative_index.view(-1)].view(area, area, self.heads).permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        batch, height, width, channels = x.shape
        side, area = self.window, self.window * self.window
        rows, columns = height // side, width // side
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = x.view(batch, rows, side, columns, side, channels).permute(0, 1, 3, 2, 4, 5)
        tokens = x.reshape(batch * rows * columns, area, channels)
        qkv = self.qkv(tokens).view(-1, area, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query * self.scale) @ key.transpose(-2, -1)
        scores = scores + self.expand_bias()
        scores = scores.view(batch, rows * columns, self.heads, area, area) + self.mask.unsqueeze(1).unsqueeze(0)
        weights = functional.softmax(scores.view(-1, self.heads, area, area), dim=-1)
        mixed = self.proj((weights @ value).transpose(1, 2).reshape(-1, area, channels))
        mixed = mixed.view(batch, rows, columns, side, side, channels).permute(0, 1, 3, 2, 4, 5)
        output: Tensor = mixed.reshape(batch, height, width, channels)
        if self.shift > 0:
            output = torch.roll(output, shifts=(self.shift, self.shift), dims=(1, 2))
        return output


class SwinBlock(nn.Module):
    """Pre-norm window attention and feed-forward."""

    def __init__(self, width: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, size, 4, shift)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours: half the resolution, twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 2, W / 2, 2 C]."""
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        output: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return output


class Swin(nn.Module):
    """A plain and a shifted block at 8 x 8, patch merging, one block at 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm0 = nn.LayerNorm(16)
        self.stages = nn.Sequential(SwinBlock(16, 2, 8, 0), SwinBlock(16, 2, 8, 2), PatchMerging(16), SwinBlock(32, 4, 4, 0))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 10]."""
        y = self.stages(self.norm0(self.patches(x).permute(0, 2, 3, 1)))
        output: Tensor = self.head(self.norm(y).mean([1, 2]))
        return output
