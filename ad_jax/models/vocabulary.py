"""One vocabulary for families with unlike observations and actions: every family then has the same network.

Whole observations and Discrete actions are values as they are, real ones become one of `values` bins after a companding
that keeps small numbers apart (the mu-law of Reed et al. 2022, arXiv 2205.06175, section 2.1), actions in a Box one of
as many bins between their bounds. A step is the places of its values, observation first and then the previous action;
places that a family lacks hold a value of their own. What a family has to itself is one embedding, its token.

Gato writes each value as a token of the sequence; here a step is one token, the sum over its places, so that contexts
are as long as everybody else's, and an action's components are predicted side by side. Both are ours.

Letters: P places of observations, C places of actions, V values.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from ad_jax.errors import ConfigError
from ad_jax.models.base import Model, ModelConfig, Params
from ad_jax.models.heads import Categorical, Head
from ad_jax.models.heads.binned import Binned
from ad_jax.models.heads.unit import to_unit
from ad_jax.types import Array, Box, Discrete, Spec, Steps

FAMILY = "family"  # the part of the parameters that a family has to itself, and the channel that it comes in by
MU, LARGEST = 100.0, 256.0  # of the companding


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Sizes that all families share."""

    observations: int = 8  # P, at most so many components
    actions: int = 2  # C
    values: int = 64  # V

    def validate(self) -> None:
        """Raise ConfigError for sizes that cannot be."""
        for name, least in (("observations", 1), ("actions", 1), ("values", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"method.vocabulary.{name} must be at least {least}; got {getattr(self, name)}")

    @property
    def places(self) -> int:
        """P + C, of a step."""
        return self.observations + self.actions

    @property
    def spec(self) -> Spec:
        """What the network of all families sees. An action's own place is empty: it is among the others."""
        places = self.places
        return Spec(Discrete(1), (places,), (self.values + 1,) * places, extra=((FAMILY, (1,)),))

    def check(self, spec: Spec) -> None:
        """Raise ConfigError for a family that has more than fits, or pictures."""
        if spec.pixels:
            raise ConfigError("a shared vocabulary has no pictures. Use method=distillation in a mixture with them")
        action = spec.action
        most = max((*(spec.values or ()), action.n if isinstance(action, Discrete) else 1))
        for option, needed in (("observations", spec.size), ("actions", action.size), ("values", most)):
            if getattr(self, option) < needed:
                raise ConfigError(
                    f"method.vocabulary.{option}={getattr(self, option)} is too few for this family; it needs {needed}"
                )

    def head(self, spec: Spec) -> Head:
        """Return what the outputs mean to a family: the first of them that its actions need."""
        action = spec.action
        return Binned(action, self.values) if isinstance(action, Box) else Categorical(action.n)

    def see(self, spec: Spec, steps: Steps) -> Steps:
        """Return a family's steps `[*B]` in the vocabulary of all."""
        lead, action = steps.prev_done.shape, spec.action
        observed = steps.observation.reshape(*lead, spec.size)
        seen = observed.astype(jnp.int32) if spec.values is not None else self.places_of(companded(observed))
        if isinstance(action, Box):
            done = self.places_of(to_unit(action, steps.prev_action))
        else:  # "none" is a value that a place holds where there is nothing
            done = jnp.where(steps.prev_action == action.n, self.values, steps.prev_action)[..., None]
        parts = [self._filled(seen, self.observations), self._filled(done.astype(jnp.int32), self.actions)]
        return Steps(
            observation=jnp.concatenate(parts, axis=-1),
            prev_action=jnp.zeros(lead, jnp.int32),
            prev_reward=steps.prev_reward,
            prev_done=steps.prev_done,
            extra={FAMILY: jnp.ones((*lead, 1), jnp.float32)},
        )

    def places_of(self, unit: Float[Array, "*B n"]) -> Int32[Array, "*B n"]:
        """Return numbers from -1 to 1 as one of V bins, 0..V-1."""
        place = jnp.floor((unit.astype(jnp.float32) + 1) * (self.values / 2)).astype(jnp.int32)
        return jnp.clip(place, 0, self.values - 1)

    def _filled(self, values: Int32[Array, "*B n"], places: int) -> Int32[Array, "*B places"]:
        width = [(0, 0)] * (values.ndim - 1) + [(0, places - values.shape[-1])]
        return jnp.pad(values, width, constant_values=self.values)


def companded(x: Float[Array, "*B n"]) -> Float[Array, "*B n"]:
    """Return real numbers as ones from -1 to 1, small ones far apart."""
    x = x.astype(jnp.float32)
    grown = jnp.log1p(jnp.abs(x) * MU) / jnp.log1p(jnp.float32(LARGEST * MU))
    return jnp.clip(jnp.sign(x) * grown, -1.0, 1.0)


def in_vocabulary(config: ModelConfig, spec: Spec, vocabulary: Vocabulary) -> Model:
    """Return a backbone's model for a family, in the vocabulary of all families.

    All parameters but the family's token are of the same shapes for every family.

    Args:
        config: of a backbone that takes another head.
        spec: of what the family's model sees.
        vocabulary: of all.

    Raises:
        ConfigError: if the family has more than the vocabulary, or the backbone forgets episodes.
    """
    vocabulary.check(spec)
    if getattr(config, "memory", None) is not None:
        raise ConfigError(
            "model.memory=episode would not take the last action out of this vocabulary; leave it at None"
        )
    if getattr(config, "action_head", "auto") != "auto":
        raise ConfigError("model.action_head has no meaning in a shared vocabulary, which bins real actions; set auto")
    backbone: Any = config  # takes a head, as `heads.check_takes_head` sees
    base: Model = backbone.make(vocabulary.spec, Categorical(vocabulary.actions * vocabulary.values))
    head = vocabulary.head(spec)
    name = f"extra_{FAMILY}"

    def apart(params: Params) -> Params:
        tokens = {part: tree for part, tree in params["tokens"].items() if part != name}
        return params | {"tokens": tokens, FAMILY: params["tokens"][name]}

    def whole(params: Params) -> Params:
        rest = {part: tree for part, tree in params.items() if part != FAMILY}
        return rest | {"tokens": params["tokens"] | {name: params[FAMILY]}}

    def see(steps: Steps) -> Steps:
        return vocabulary.see(spec, steps)

    def decode(params: Params, cache: Any, steps: Steps) -> tuple[jax.Array, Any]:
        outputs, cache = base.decode(whole(params), cache, see(steps))
        return outputs[..., : head.size], cache

    def unroll(params: Params, cache: Any, steps: Steps) -> tuple[jax.Array, Any]:
        assert base.unroll is not None
        outputs, cache = base.unroll(whole(params), cache, see(steps))
        return outputs[..., : head.size], cache

    return base._replace(
        init=lambda key: apart(base.init(key)),
        apply=lambda params, steps, key=None: base.apply(whole(params), see(steps), key)[..., : head.size],
        decode=decode,
        unroll=None if base.unroll is None else unroll,
        branches=None,
        head=head,
        own=(FAMILY,),
        partition=(*base.partition, (rf"{FAMILY}/kernel", ())),
    )
