"""The same small model and training step in PyTorch, timed in turn with ours.

The model is `peers/programs/torch_model.py`'s. Equal beside it: AdamW with clipping by the global norm, histories on
the device and windows drawn from them at every update, float32. PyTorch's own: fused AdamW, and `torch.compile` where a
first try shows that it helps. On a CPU both use every core.

Imported only when asked for: `pip install 'ad_jax[torch]'`.
"""

import gc
import time
from collections.abc import Callable, Iterator

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

    from ad_jax.bench.peers.programs.torch_model import Transformer
except ImportError as error:
    raise ConfigError("bench --torch needs PyTorch: pip install 'ad_jax[torch]'") from error


class Training:
    """Model, optimizer and histories; a call runs updates."""

    def __init__(self, case: Case, s: distilling.Trained, device: str):
        assert s.spec.values is not None
        self.case, self.device = case, device
        c = s.model_config
        sizes = c.layers, c.width, c.heads, c.mlp_width, c.attention_dropout, case.segment
        self.model = Transformer(s.spec.values, s.spec.num_actions, *sizes).to(device)
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
