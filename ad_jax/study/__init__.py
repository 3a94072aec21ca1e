"""What is claimed: studies as experiments side by side, with claims whose rules stand before anything is run."""

from ad_jax.study.study import ORDER, Arm, Study, arms_of, known, load

__all__ = ["ORDER", "Arm", "Study", "arms_of", "known", "load"]
