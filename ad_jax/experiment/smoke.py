"""Sizes for an experiment's scale `smoke`, which goes through every part in seconds and learns nothing."""

from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer

MODEL = Transformer(layers=1, width=16, heads=2, mlp_width=32, window=20)


def training(updates: int = 8, evaluate_episodes: int = 4) -> Distillation:
    """Return a training of a few updates: one checkpoint on the way, one evaluation in context every four updates.

    Args:
        updates: of the whole training, an even number.
        evaluate_episodes: of each evaluation on the way.
    """
    return Distillation(
        updates=updates,
        warmup_updates=2,
        checkpoint_every=updates // 2,
        updates_per_dispatch=2,
        evaluate_every=4,
        evaluate_episodes=evaluate_episodes,
    )
