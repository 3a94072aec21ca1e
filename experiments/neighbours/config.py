"""Every system that AD is measured against, on the histories of Dark Room and one set of held-out goals.

Claim    from the same histories only what sees a whole lifetime learns in it: AD, and what is distilled from it. What
         sees one episode (Decision Transformer, Multi-Game Decision Transformer, filtered cloning) does on new goals
         what it did in its first episode.
Command  ad-jax reproduce neighbours     (`ad-jax run neighbours` is the arm of Decision Transformer)
Variant  Dark Room 9x9, 20 steps, start in the center, reward 1 on every step at the goal; model and updates of the
         demo (2 layers, 700 updates by Muon) for all that learn from histories.
Paper    training takes about 3.5 GB and 11.4 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import Experiment, call, find, load, override
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, Rank, at_least, at_most, near, quantity

TARGETS = 2.0, 6.0, 10.0, 14.0, 18.0  # returns of an episode; the optimum is 16.9 on average, 20 at most
STUDENT = LSTM(width=32, hidden=96, mlp_width=64)


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    return override(base(scale), ["method=decision_transformer", *within(scale)])


def within(scale: str) -> list[str]:
    """Say that a model remembers the episode it is in alone; absolute positions would count on over episodes."""
    return [*(["model.positions=rotary"] if scale == "paper" else []), "model.memory=episode"]


def base(scale: str = "cpu") -> Experiment:
    """Return AD as the demo trains it; the source's own curve is that of the study `dark_room`."""
    e = dataclasses.replace(load("dark_room", "demo" if scale == "cpu" else scale), name="neighbours")
    return override(e, ["evaluate.source_seeds=0", "method.evaluate_every=0"])


def study(scale: str = "cpu") -> Study:
    """All of them in one figure, and what is claimed of each."""
    ad, dt = base(scale), config(scale)
    known = [f"evaluate.trained={2 if scale == 'smoke' else 16}"]
    ends = ["replay.tail=0.25", "replay.keep_every=1", "replay.phases=1"]

    def other(function: str, study: str) -> Experiment:
        return call(find(study), function, scale)

    arms = {
        "AD": Arm(override(ad, known)),
        "ED": Arm(override(ad, [*ends, *known])),
        "RL2": Arm(other("reinforced", "dark_room")),
        "DPT": Arm(other("room", "dpt"), seeds=2),
        "DT": Arm(override(dt, known)),
        "DT across episodes": Arm(override(ad, ["method=decision_transformer"])),
        "filtered cloning": Arm(override(ad, [*ends, *within(scale), *known])),
        "MGDT": Arm(override(ad, ["method=multi_game_dt", *within(scale), *known])),
        "MGDT, no preference": Arm(
            override(ad, ["method=multi_game_dt", *within(scale), "method.acting.kappa=0", *known]), shown=False
        ),
        **{
            f"DT, asked for {target:g}": Arm(override(dt, [*known, f"method.acting.target={target:g}"]), shown=False)
            for target in TARGETS
        },
        "DT, one rollout": Arm(override(dt, ["evaluate.seeds=1"]), shown=False),
        **students(scale),
        **planners(scale),
        **reinforced(scale),
    }

    def final(arm, **of):
        return quantity("final", arm, **of)

    def gain(arm):
        return final(arm) - quantity("first", arm)

    asked = tuple(quantity("mean", f"DT, asked for {target:g}", set="trained") for target in TARGETS)
    claims = (
        Claim(
            "AD gains in its context on new goals", "from 0.5 to 14.1 (Laskin et al. 2022)", gain("AD"), at_least(12)
        ),
        Claim(
            "Within the episode, what Decision Transformer earns on trained goals follows what it is asked for",
            "it does (Chen et al. 2021, figure 4)",
            Rank(asked, TARGETS),
            at_least(0.9),
        ),
        Claim("Decision Transformer gains nothing on new goals", "not in the papers", gain("DT"), at_most(0.5)),
        Claim(
            "On trained goals, cloning the best quarter of histories earns at least 95 % of Decision Transformer",
            "filtered cloning equals or beats it where rewards are sparse (arXiv 2507.10174)",
            final("filtered cloning", set="trained") / final("DT", set="trained"),
            at_least(0.95),
        ),
        Claim(
            "The best of the episodes of a context flatters Decision Transformer by 20 %, without any learning",
            "reported so by some",
            quantity("best", "DT, one rollout") / quantity("mean", "DT, one rollout"),
            at_least(1.2),
        ),
        Claim(
            "Asked for the best returns across episodes, Decision Transformer ends near AD",
            "nobody has measured it on learning histories",
            final("DT across episodes") / final("AD"),
            near(1, within=0.1),
        ),
        Claim(
            "Preferring high returns, Multi-Game Decision Transformer earns more than its own cloning on trained goals",
            "it does, in games (Lee et al. 2022, figure 5)",
            quantity("mean", "MGDT", set="trained") - quantity("mean", "MGDT, no preference", set="trained"),
            at_least(0.0),
        ),
        Claim("Nor does Multi-Game Decision Transformer gain on new goals", "no claim", gain("MGDT"), at_most(0.5)),
        Claim(
            "Distilled where it acts itself, an LSTM ends at 90 % of its teacher on new goals",
            "an LSTM with its transformer's returns (Parisotto and Salakhutdinov 2021)",
            final("LSTM, taught where it acts") / final("AD"),
            at_least(0.9),
        ),
        Claim(
            "It ends above an LSTM that AD trains",
            "above LSTMs without a transformer (the same)",
            final("LSTM, taught where it acts") - final("LSTM by AD"),
            at_least(0.0),
        ),
        Claim(
            "It ends above an LSTM that is taught on stored histories",
            "on-policy above off-policy distillation (Agarwal et al. 2024)",
            final("LSTM, taught where it acts") - final("LSTM, taught on histories"),
            at_least(0.0),
        ),
        Claim(
            "On trained goals, from histories cut at mid-learning, a beam of plans earns more than one likely plan",
            "planning improves on cloning (Janner et al. 2021, table 1)",
            final("TT, beam of 32", set="trained") - final("TT, likeliest plan", set="trained"),
            at_least(0.0),
        ),
        Claim(
            "Given goals that no history was rewarded for, plans made of random walks earn 90 % of the optimum",
            "test-time goals without new training (Janner et al. 2022)",
            quantity("ratio", "Diffuser, given the goal"),
            at_least(0.9),
        ),
        Claim(
            "Told its task, a student of the teachers' values earns 90 % of the optimum on trained goals",
            "one network as good as its teachers (Rusu et al. 2015, table 1)",
            quantity("ratio", "policy distillation, told the task", set="trained"),
            at_least(0.9),
        ),
        Claim(
            "By reinforcement, gates let a transformer learn what the ungated post-norm one does not",
            "GTrXL trains where the post-norm transformer fails (Parisotto et al. 2019, figure 2)",
            final("RL2, GTrXL") - final("RL2, post-norm transformer"),
            at_least(3.0),
        ),
        Claim(
            "An LSTM that acts for a transformer reaches in half the steps what an LSTM reaches by itself",
            "the transformer's sample efficiency at the LSTM's speed (Parisotto and Salakhutdinov 2021, figure 3)",
            final("actor-learner, half the steps") - final("RL2"),
            at_least(0.0),
        ),
    )
    return Study("neighbours", "AD and its neighbors, in Dark Room", arms, claims, sets=("held_out",))


def students(scale: str) -> dict[str, Arm]:
    """LSTMs: by AD, taught by AD's transformer on stored histories, and taught by it where they act themselves."""
    own = [] if scale == "smoke" else ["method.learning_rate=0.003", "method.optimizer=adamw"]
    small = dataclasses.replace(STUDENT, width=8, hidden=8, mlp_width=8) if scale == "smoke" else STUDENT
    lstm = override(dataclasses.replace(base(scale), model=small), own)
    acting = ["method.lifetimes=8", "method.lifetime_episodes=2", "method.updates=2", "method.warmup_updates=1"]
    if scale != "smoke":
        acting = ["method.lifetimes=32", "method.updates=400"]
    return {
        "LSTM by AD": Arm(lstm),
        "LSTM, taught on histories": Arm(override(lstm, ["method=offline_distillation"]), taught_by="AD"),
        "LSTM, taught where it acts": Arm(override(lstm, ["method=on_policy_distillation", *acting]), taught_by="AD"),
    }


def planners(scale: str) -> dict[str, Arm]:
    """Make plans in models of histories cut at mid-learning, and of random walks; and clone the ends of teachers."""
    smoke = scale == "smoke"
    known = ["evaluate.greedy=False", f"evaluate.trained={2 if smoke else 16}"]
    few = [*known, "evaluate.seeds=1"] if smoke else [*known, "evaluate.seeds=1", "evaluate.episodes=30"]
    cut = [] if smoke else ["collect.episodes=120", "replay.keep_every=20"]
    tt = override(base(scale), ["method=trajectory_transformer", *cut, *few])
    small = ["method.acting.beam=2", "method.acting.horizon=2"] if smoke else []
    walks = dataclasses.replace(base(scale), source=NoisyOracle(noise_end=1.0))
    walks = override(walks, [] if smoke else ["collect.seeds=4", "collect.episodes=100", "replay.keep_every=1"])
    ends = ["method=policy_distillation", "collect.preferences=True", "replay.tail=0.25", "replay.keep_every=1"]
    likeliest = [*(f"method.acting.{name}=1" for name in ("beam", "horizon", "expand")), "method.acting.score=log_prob"]
    return {
        "TT, beam of 32": Arm(override(tt, small)),
        "TT, likeliest plan": Arm(override(tt, likeliest), shown=False),
        "Diffuser, given the goal": Arm(
            override(walks, ["replay.phases=1", "method=diffuser", "method.acting.goal=task", *few])
        ),
        "policy distillation, told the task": Arm(
            override(base(scale), [*ends, "replay.phases=1", *within(scale), *known])
        ),
    }


def reinforced(scale: str) -> dict[str, Arm]:
    """Reinforce transformers, gated and not, and an LSTM that acts for one, with half the updates of `RL2`."""
    rl2: Experiment = call(find("dark_room"), "reinforced", scale)
    small = {"layers": 1, "width": 8, "heads": 1, "mlp_width": 8} if scale == "smoke" else {"layers": 2, "width": 64}
    gated = Transformer(**small, window=200, gate="gru", value_head=True)
    plain = Transformer(**small, window=200, norm="post", value_head=True)
    acting = ["method=actor_learner", f"method.updates={max(rl2.method.updates // 2, 2)}"]
    acting += [f"method.learner.{name}={value}" for name, value in small.items()]
    return {
        "RL2, GTrXL": Arm(dataclasses.replace(rl2, model=gated)),
        "RL2, post-norm transformer": Arm(dataclasses.replace(rl2, model=plain)),
        "actor-learner, half the steps": Arm(override(rl2, acting)),
    }
