"""The in-context evaluation of a public Algorithm Distillation, ad-eps, as it is; runs in its own environment.

Its own `evaluate_in_context` on its own Dark Room, untrained. Two changes: `wandb`, which it only logs to, is an empty
module; and PyTorch's fast path of attention, which is slower here, is off, as its figure is then the better one.
"""

import sys
import types

from serving import serve  # pyright: ignore[reportMissingImports]


def make(work: dict):
    """Return what evaluates once, and the versions it does so with."""
    sys.path.insert(0, f"{work['checkout']}/dark_room")
    sys.modules["wandb"] = types.ModuleType("wandb")
    import ad_darkroom  # pyright: ignore[reportMissingImports]
    import envs  # noqa: F401  # pyright: ignore[reportMissingImports]  # registers Dark Room
    import gymnasium  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.backends.mha.set_fastpath_enabled(False)
    c = work["model"]
    no = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}
    model = ad_darkroom.ADTransformer(
        81, 5, c["window"], c["width"], c["width"], c["layers"], c["heads"], **no
    ).eval()  # fmt: skip
    goals = [(i, j) for i in range(9) for j in range(9)]
    episodes = work["steps"] // 20 - 1  # it runs one more than it is asked for

    def call():
        ad_darkroom.evaluate_in_context("DarkRoom-v0", model, goals, episodes, seed=0)

    return call, {"torch": torch.__version__, "gymnasium": gymnasium.__version__}


if __name__ == "__main__":
    serve(make)
