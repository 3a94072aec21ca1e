"""The same small model and training step in PyTorch, timed in turn with ours.

Equal: sizes, layout of one token a step (the sum of embeddings), pre-norm RMSNorm, rotary positions, ReLU, AdamW with
clipping by the global norm, histories on the device and windows drawn from them at every update, float32. PyTorch's
own: `scaled_dot_product_attention`, fused AdamW, and `torch.compile` where a first try shows that it helps. Rotary
frequencies are the usual ones, which changes no work. On a CPU both use every core.

Imported only when asked for: `pip install 'ad_jax[torch]'`.
"""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ad_jax.bench import distilling
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Case, Sizes
from ad_jax.bench.timing import Work, measure, paired
from ad_jax.errors import ConfigError

try:
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ConfigError("bench --torch needs PyTorch: pip install 'ad_jax[torch]'") from error


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

    def __init__(self, values: tuple[int, ...], actions: int, c: Any, length: int):
        super().__init__()
        self.observation, self.action = nn.Embedding(sum(values), c.width), nn.Embedding(actions + 1, c.width)
        self.reward, self.done = nn.Linear(1, c.width, bias=False), nn.Embedding(2, c.width)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.mlp_width, c.attention_dropout) for _ in range(c.layers))
        self.norm, self.head = nn.RMSNorm(c.width), nn.Linear(c.width, actions)
        self.register_buffer("first_row", torch.tensor(np.cumsum((0, *values[:-1]))))
        half = c.width // c.heads // 2
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


class Training:
    """Model, optimizer and histories; a call runs updates."""

    def __init__(self, case: Case, s: distilling.Trained, device: str):
        assert s.spec.values is not None
        self.case, self.device = case, device
        self.model = Transformer(s.spec.values, s.spec.num_actions, s.model_config, case.segment).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
        histories = distilling.random_histories(distilling.HISTORIES, distilling.WINDOWS * case.segment, s.spec)
        t, put = histories.transition, lambda x, dtype: torch.tensor(np.asarray(x)).to(device, dtype)
        self.observation, self.action = put(t.observation, torch.uint8), put(t.action, torch.uint8)
        self.reward, self.done = put(t.reward, torch.uint8), put(t.truncated, torch.uint8)
        self.loss = self._loss

    def _loss(self, steps, targets):
        return functional.cross_entropy(self.model(*steps).flatten(0, 1), targets.flatten())

    def sample(self):
        """Return a batch of windows: inputs are shifted by one step against targets."""
        case, rows = self.case, self.action.shape[0]
        row = torch.randint(rows, (case.batch, 1), device=self.device)
        start = torch.randint(1, self.action.shape[1] - case.segment + 1, (case.batch, 1), device=self.device)
        at = start + torch.arange(case.segment, device=self.device)
        steps = (
            self.observation[row, at].long(),
            self.action[row, at - 1].long(),
            self.reward[row, at - 1].float(),
            self.done[row, at - 1].long(),
        )
        return steps, self.action[row, at].long()

    def __call__(self, updates: int) -> float:
        """Return `updates` updates; returns the last loss, which waits for the device."""
        loss = torch.zeros(())
        for _ in range(updates):
            loss = self.loss(*self.sample())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return loss.item()


def faster(make: Callable[[], Training], updates: int) -> tuple[Training, bool]:
    """Return the training that is faster, compiled or not, and whether it is the compiled one."""
    plain = make()
    try:
        compiled = make()
        compiled.loss = torch.compile(compiled.loss)
        taken = []
        for training in (plain, compiled):
            training(2)  # compiles, and once more with what it found
            started = time.perf_counter()
            training(updates)
            taken.append(time.perf_counter() - started)
    except Exception as error:  # torch.compile needs a C++ compiler at run time; whatever it misses, plain runs
        print(f"torch.compile does not work here: {type(error).__name__}")
        return plain, False
    return (compiled, True) if taken[1] < taken[0] else (plain, False)


def rows(sizes: Sizes) -> Iterator[Row]:
    """One row for each case that is small, without accumulation, float32 and of the streaming model.

    Figure: positions/s in PyTorch; share: of ours in the same rounds.
    """
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    for case in (case for case in (sizes.cases if sizes.beside is None else sizes.beside) if case.torch):
        s = distilling.setting(case)
        config = s.model_config
        if case.model != "transformer" or config.compute_dtype != "float32" or case.segment > config.window:
            continue
        ours = distilling.Training(s, distilling.compiled(s))
        theirs, was_compiled = faster(lambda case=case, s=s: Training(case, s, device), case.updates)
        amount = float(case.updates * case.batch * case.segment)
        works = {
            "torch": Work(lambda run=theirs, n=case.updates: run(n), amount),
            "ours": Work(lambda run=ours, n=case.updates: run(n), amount),
        }
        seconds = measure(works, sizes.rounds, sizes.budget)
        yield rate(
            f"torch/{case.name}/{case.batch}x{case.segment}", "positions/s", amount, seconds["torch"],
            "ours, same rounds", amount, seconds["ours"], compiled=float(was_compiled),
            ours_positions_per_s=amount / sorted(seconds["ours"])[len(seconds["ours"]) // 2],
            ours_over_torch=paired(seconds["torch"], seconds["ours"]),
            ours_over_torch_best=min(seconds["torch"]) / min(seconds["ours"]),
            torch_parameters=float(sum(p.numel() for p in theirs.model.parameters())),
        )  # fmt: skip
        gc.collect()
