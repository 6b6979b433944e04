"""nn.TransformerEncoder and BERT-, GPT-2-, T5-encoder- and Llama-like networks."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformerClassifier(nn.Module):
    """PyTorch's own encoder (two post-norm layers) over a projected sequence."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
        self.project = nn.Linear(8, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 8] -> [B, 6]."""
        output: Tensor = self.head(self.encoder(self.project(x)).mean(1))
        return output


class BertLayer(nn.Module):
    """Post-norm attention with separate projections and an additive mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.intermediate = nn.Linear(width, 2 * width)
        self.dense = nn.Linear(2 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, heads, T, C / heads]."""
        return x.view(x.size(0), x.size(1), self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, T, C] and [B, 1, 1, T] -> [B, T, C]."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.size) + mask
        mixed = torch.matmul(self.dropout(functional.softmax(scores, dim=-1)), value)
        mixed = mixed.permute(0, 2, 1, 3).contiguous().view(x.size())
        x = self.norm1(self.dropout(self.output(mixed)) + x)
        output: Tensor = self.norm2(self.dropout(self.dense(functional.gelu(self.intermediate(x)))) + x)
        return output


class Bert(nn.Module):
    """Token, position and type embeddings, two layers, pooler, classifier; the attention mask is an input."""

    positions: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(60, width)
        self.position_embeddings = nn.Embedding(32, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.register_buffer("positions", torch.arange(32).unsqueeze(0))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList([BertLayer(width, 4), BertLayer(width, 4)])
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] tokens and [B, T] of 0 and 1 -> [B, 3]."""
        positions = self.positions[:, : input_ids.size(1)]
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        x = self.norm(x + self.token_type_embeddings(torch.zeros_like(input_ids)))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        output: Tensor = self.classifier(torch.tanh(self.pooler(x[:, 0])))
        return output


class GPT2Block(nn.Module):
    """Pre-norm causal attention with a joint projection, and a tanh-GELU feed-forward."""

    causal: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_out = nn.Linear(4 * width, width)
        self.register_buffer("causal", torch.tril(torch.ones(32, 32, dtype=torch.bool)).view(1, 1, 32, 32))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        batch, tokens, width = x.size()
        query, key, value = self.c_attn(self.ln_1(x)).split(width, dim=2)
        query = query.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
        key = key.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
        value = value.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(~self.causal[:, :, :tokens, :tokens], float("-inf"))
        mixed = (functional.softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous().view(batch, tokens, width)
        x = x + self.c_proj(mixed)
        return x + self.c_out(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Two causal blocks; the head is the token embedding itself (tied)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.wte = nn.Embedding(60, width)
        self.wpe = nn.Embedding(32, width)
        self.blocks = nn.ModuleList([GPT2Block(width, 4), GPT2Block(width, 4)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 60, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] tokens -> [B, T, 60]."""
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.lm_head(self.ln_f(x))
        return output


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class T5Layer(nn.Module):
    """Unscaled attention plus a position bias, and a gated GELU feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.norm2 = RMSNorm(width)
        self.wi_0 = nn.Linear(width, 2 * width, bias=False)
        self.wi_1 = nn.Linear(width, 2 * width, bias=False)
        self.wo = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[B, T, C] and [1, heads, T, T] -> [B, T, C]."""
        shape = [x.size(0), x.size(1), self.heads, x.size(2) // self.heads]
        y = self.norm1(x)
        query = self.q(y).view(shape).transpose(1, 2)
        key = self.k(y).view(shape).transpose(1, 2)
        value = self.v(y).view(shape).transpose(1, 2)
        weights = functional.softmax(torch.matmul(query, key.transpose(3, 2)) + bias, dim=-1)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(x.size(0), x.size(1), x.size(2))
        x = x + self.o(mixed)
        y = self.norm2(x)
        return x + self.wo(functional.gelu(self.wi_0(y), approximate="tanh") * self.wi_1(y))


def bucket_positions(tokens: Tensor, buckets: int, furthest: int) -> Tensor:
    """Return T5's bidirectional relative position buckets [T, T]: exact when near, logarithmic when far."""
    positions = torch.arange(tokens.size(1), device=tokens.device)
    relative = positions[None, :] - positions[:, None]
    half = buckets // 2
    near = half // 2
    distance = relative.abs()
    scale = (half - near) / math.log(furthest / near)
    far = near + (torch.log(distance.clamp(min=1).float() / near) * scale).long()
    far = torch.min(far, torch.full_like(far, half - 1))
    return (relative > 0).long() * half + torch.where(distance < near, distance, far)


class T5Encoder(nn.Module):
    """Two layers that share one bucketed relative position bias; mean-pooled classes."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.shared = nn.Embedding(60, width)
        self.relative_bias = nn.Embedding(8, heads)
        self.layers = nn.ModuleList([T5Layer(width, heads), T5Layer(width, heads)])
        self.final_norm = RMSNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] tokens -> [B, 5]."""
        bias = self.relative_bias(bucket_positions(tokens, 8, 16)).permute(2, 0, 1).unsqueeze(0)
        x = self.shared(tokens)
        for layer in self.layers:
            x = layer(x, bias)
        output: Tensor = self.head(self.final_norm(x).mean(1))
        return output


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary position embedding to [B, heads, T, D]."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class LlamaLayer(nn.Module):
    """Pre-norm causal attention with rotary positions and grouped queries, SwiGLU feed-forward."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.input_norm = RMSNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, groups * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.post_norm = RMSNorm(width)
        self.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """[B, T, C] and two [T, C / heads] tables -> [B, T, C]."""
        batch, tokens, width = x.shape
        y = self.input_norm(x)
        query = rotate(self.q_proj(y).view(batch, tokens, self.heads, self.size).transpose(1, 2), cosine, sine)
        key = rotate(self.k_proj(y).view(batch, tokens, self.groups, self.size).transpose(1, 2), cosine, sine)
        value = self.v_proj(y).view(batch, tokens, self.groups, self.size).transpose(1, 2)
        key = key.repeat_interleave(self.heads // self.groups, dim=1)
        value = value.repeat_interleave(self.heads // self.groups, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        y = self.post_norm(x)
        return x + self.down_proj(functional.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    """Two layers; rotary tables from a buffer of inverse frequencies."""

    inverse_frequency: Tensor

    def __init__(self, width: int = 16, heads: int = 4, groups: int = 2) -> None:
        super().__init__()
        size = width // heads
        self.embed_tokens = nn.Embedding(60, width)
        self.layers = nn.ModuleList([LlamaLayer(width, heads, groups), LlamaLayer(width, heads, groups)])
        self.norm = RMSNorm(width)
        self.lm_head = nn.Linear(width, 60, bias=False)
        self.register_buffer("inverse_frequency", 10000.0 ** (-torch.arange(0, size, 2) / size))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] tokens -> [B, T, 60]."""
        positions = torch.arange(tokens.size(1), device=tokens.device).to(self.inverse_frequency.dtype)
        angles = torch.outer(positions, self.inverse_frequency)
        angles = torch.cat([angles, angles], dim=-1)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        output: Tensor = self.lm_head(self.norm(x))
        return output
