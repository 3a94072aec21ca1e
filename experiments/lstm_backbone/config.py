"""Algorithm distillation on an LSTM beside a transformer (Laskin et al. 2022, appendix).

Claim    an LSTM distils a learning algorithm too, and the transformer does it better.
Command  ad-jax reproduce lstm_backbone     (`ad-jax run lstm_backbone` is the arm of the LSTM)
Variant  Dark Key-to-Door with 5x5 cells and 20 steps (`dark_key_to_door` at scale `small`): random start, 1 for the
         key and then 1 for the door, observation = own position. The paper has 9x9 cells and 50 steps.
Paper    1,381,893 parameters
"""

import dataclasses

from ad_jax.experiment import Experiment, load
from ad_jax.methods.distillation import Distillation
from ad_jax.models.lstm import LSTM
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's LSTM, 512 wide."""
    base = dataclasses.replace(load("dark_key_to_door", "small" if scale == "cpu" else scale), name="lstm_backbone")
    models = {"cpu": LSTM(hidden=256), "smoke": LSTM(width=16, hidden=16, mlp_width=32), "paper": LSTM(hidden=512)}
    # A quarter of the transformer's rate: at 8e-3 an LSTM's loss does not fall.
    assert isinstance(base.method, Distillation)
    rate = base.method.learning_rate / 4 if scale == "cpu" else base.method.learning_rate
    method = dataclasses.replace(base.method, learning_rate=rate)
    return dataclasses.replace(base, model=models[scale], method=method)


def study(scale: str = "cpu") -> Study:
    """Return the appendix' comparison."""
    transformer = dataclasses.replace(
        load("dark_key_to_door", "small" if scale == "cpu" else scale), name="lstm_backbone"
    )
    arms = {"transformer": Arm(transformer), "LSTM": Arm(config(scale))}
    claims = (
        Claim(
            "An LSTM learns in context, too",
            "1.68 of 2 after 300 episodes",
            quantity("final", "LSTM") - quantity("first", "LSTM"),
            at_least(0.3),
        ),
        Claim(
            "The transformer is better than the LSTM",
            "1.89 beside 1.68",
            quantity("final", "transformer") - quantity("final", "LSTM"),
            at_least(0.0),
        ),
    )
    return Study("lstm_backbone", "AD on an LSTM (appendix)", arms, claims, seeds=2)
