"""The small model in PyTorch: needs nothing but PyTorch, so that it also runs where ad_jax's dependencies are not.

Equal: sizes, layout of one token a step (the sum of embeddings), pre-norm RMSNorm, rotary positions, ReLU, float32.
PyTorch's own: `scaled_dot_product_attention`. Rotary frequencies are the usual ones, which changes no work.
"""

import itertools

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]


class Block(nn.Module):
    """Attention and MLP, pre-norm."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, mlp_width, bias=False), nn.Linear(mlp_width, width, bias=False)

    def forward(self, x, cos, sin):
        """X `[B, L, D]`; cosines and sines `[L, h / 2]`."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.relu(self.up(self.norm_mlp(x))))


def turn(x, cos, sin):
    """Rotary positions on `[B, K, L, h]`."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Transformer(nn.Module):
    """Steps -> logits; the segment is no longer than the window."""

    def __init__(
        self,
        values: tuple[int, ...],
        actions: int,
        layers: int,
        width: int,
        heads: int,
        mlp_width: int,
        dropout: float,
        length: int,
    ):
        super().__init__()
        self.observation, self.action = nn.Embedding(sum(values), width), nn.Embedding(actions + 1, width)
        self.reward, self.done = nn.Linear(1, width, bias=False), nn.Embedding(2, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width, dropout) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, actions)
        self.register_buffer("first_row", torch.tensor([*itertools.accumulate((0, *values[:-1]))]))
        half = width // heads // 2
        angle = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, observation, action, reward, done):
        """Observations `[B, L, O]`, previous actions, rewards and dones `[B, L]` -> logits `[B, L, A]`."""
        x = self.observation(observation + self.first_row).sum(-2) + self.action(action)
        x = x + self.reward(reward[..., None]) + self.done(done)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))
