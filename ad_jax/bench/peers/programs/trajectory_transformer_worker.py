"""Plans of the public Trajectory Transformer, as it is, untrained; runs in its own environment.

Its own `GPT` and `beam_plan`. One thing is left out: the part of its package that draws and logs, which needs MuJoCo.
"""

import sys
import types

from serving import bare, serve  # pyright: ignore[reportMissingImports]


def make(work: dict):
    """Return what decides some times, one after another as it has no batches, and the versions it does so with."""
    sys.path.insert(0, work["checkout"])
    utils = bare("trajectory.utils", work["checkout"])
    import torch  # pyright: ignore[reportMissingImports]
    from trajectory.utils.progress import Progress, Silent  # pyright: ignore[reportMissingImports]

    utils.Progress, utils.Silent = Progress, Silent
    from trajectory.models.transformers import GPT  # pyright: ignore[reportMissingImports]
    from trajectory.search.core import beam_plan  # pyright: ignore[reportMissingImports]

    c, observation, action = work["model"], 2, 1
    transition = observation + action + 2
    weights = {"action_weight": 5, "reward_weight": 1, "value_weight": 1}
    no = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_embd": c["width"], "n_layer": c["layers"], "n_head": c["heads"]}
    options = {"observation_dim": observation, "action_dim": action, "transition_dim": transition}
    # Sequences of ten transitions, five of them context, which is how its own configuration plans.
    model = GPT(
        types.SimpleNamespace(
            vocab_size=work["bins"], block_size=10 * transition - 1, **sizes, **options, **weights, **no
        )
    ).eval()
    torch.manual_seed(0)
    context = torch.randint(0, work["bins"], (1, 5 * transition + observation))
    points = torch.linspace(0, 1, work["bins"] + 1)

    def value(probabilities):
        return (probabilities @ points).unbind(1)

    def call():
        for _ in range(work["decisions"]):
            beam_plan(
                model, value, context, work["horizon"], work["beam"], work["expand"], observation, action,
                max_context_transitions=10, k_obs=1, k_rew=1, cdf_act=0.6, verbose=False,
            )  # fmt: skip

    return call, {"torch": torch.__version__}


if __name__ == "__main__":
    serve(make)
