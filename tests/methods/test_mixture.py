"""The learner of a mixture: what its loss is, and what it tells."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import mesh_of

from ad_jax.history.replay import Config
from ad_jax.keys import a_key
from ad_jax.methods.base import Setting
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.mixture import Part, mixed
from ad_jax.methods.offline_distillation import OfflineDistillation
from ad_jax.models.base import empty_steps
from ad_jax.models.together import Together
from ad_jax.models.transformer import Transformer
from ad_jax.types import Batch, Box, Discrete, Spec

SPECS = {"b": Spec(Discrete(5), (2,), (4, 4)), "a": Spec(Box((2,), -1.0, 1.0), (3,), None)}
CONFIG = Distillation(updates=4, warmup_updates=1, accumulate=2)
SHARES = {"b": 0.25, "a": 0.75}


def learner_of(together: Together):
    losses: Any = {name: _plain(name, model).loss for name, model in together.members.items()}
    parts = {name: Part(losses[name], SHARES[name], 2, 12) for name in SPECS}
    return losses, mixed(CONFIG, together, parts, mesh_of())


def _plain(name, model):
    sampling = Config(segment=3 + (name == "b"), batch=4, groups=2)
    return CONFIG.make(Setting(None, model, None, SPECS[name], SPECS[name], None, sampling, mesh_of())).learner  # pyright: ignore


def batch_of(name: str) -> Batch:
    spec, length = SPECS[name], 3 + (name == "b")
    steps = empty_steps(spec, 4, length)
    targets = jnp.zeros((4, length, *spec.action.shape), spec.action.compute_dtype)
    return Batch(steps.replace(prev_reward=steps.prev_reward + 1), {"action": targets})


def test_an_update_goes_down_the_weighted_mean_of_the_members_losses():
    config = Transformer(layers=1, width=8, heads=2, mlp_width=8, window=4)
    together = Together({name: config.make(spec) for name, spec in SPECS.items()})
    losses, learner = learner_of(together)
    state = learner.init(jnp.uint32(0), None)
    fed = {name: (batch_of(name), a_key(i)) for i, name in enumerate(SPECS)}

    def whole(params):
        return sum(SHARES[n] * losses[n](together.view(params, n), *fed[n]) for n in SPECS)

    value, grads = jax.jit(jax.value_and_grad(whole))(state.params)
    _, told = jax.jit(learner.update)(state, fed, a_key(9))
    np.testing.assert_allclose(told["loss"], value, rtol=1e-5)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(grads)))
    np.testing.assert_allclose(told["grad_norm"], norm, rtol=1e-4)
    for name in SPECS:
        np.testing.assert_allclose(
            told[f"loss_{name}"], jax.jit(losses[name])(together.view(state.params, name), *fed[name]), rtol=1e-5
        )
    assert learner.steps == 24


def test_methods_that_do_more_than_go_down_a_loss_state_none():
    assert Distillation.mixes
    assert not OfflineDistillation.mixes
