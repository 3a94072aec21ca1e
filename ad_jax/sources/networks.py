"""What sources with networks share: observations as features, hidden layers, linear heads, and a training step.

Parameters are plain data. Those of a policy and those of action values hold a list "convolutions", which is empty where
observations are no pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float32, Num

from ad_jax.sources.convolutions import convolved, init_convolutions, num_outputs
from ad_jax.types import Array, PyTree, Spec

# Outputs of a layer that is applied as so many products of a matrix and a vector: of a matrix that narrow, XLA's
# product on a CPU takes five times as long, and its gradient more.
FEW = 8


def num_features(spec: Spec, channels: Sequence[int] = ()) -> int:
    """F, the width of `features`."""
    if spec.pixels and channels:
        return num_outputs(spec, channels)
    return spec.size if spec.values is None else sum(spec.values)


def features(
    spec: Spec, observation: Num[Array, "B *O"], convolutions: Sequence[dict[str, jax.Array]] = ()
) -> Float32[Array, "B F"]:
    """Observations as features: one-hot per component for integers, pixels through `convolutions`.

    Else flattened; pixels then go from -0.5 to 0.5.
    """
    if convolutions:
        return convolved(convolutions, observation)
    flat = observation.reshape(len(observation), -1)
    if spec.values is None:
        return flat.astype(jnp.float32) / 255 - 0.5 if spec.pixels else flat.astype(jnp.float32)
    return jnp.concatenate([jax.nn.one_hot(flat[:, i], n) for i, n in enumerate(spec.values)], axis=1)


def layer_sizes(config: Any) -> list[tuple[str, int]]:
    """Name and size of each layer that a source's `config` asks for, to be checked."""
    return [(name, size) for name in ("channels", "hidden") for size in getattr(config, name)]


def init_policy(
    key: jax.Array, spec: Spec, channels: tuple[int, ...], hidden: tuple[int, ...], outputs: int, shared: bool = True
) -> dict[str, PyTree]:
    """Parameters of `policy`. The key is consumed."""
    network = init_network(key, num_features(spec, channels), hidden, outputs, shared)
    return network | {"convolutions": init_convolutions(jax.random.fold_in(key, 2**31), spec, channels)}


def policy(
    params: dict[str, PyTree], spec: Spec, observation: Num[Array, "B *O"]
) -> tuple[Float32[Array, "B outputs"], Float32[Array, " B"]]:
    """Observations to what `actions.distribution` takes, and values."""
    return network(params, features(spec, observation, params["convolutions"]))


def init_network(
    key: jax.Array, inputs: int, hidden: tuple[int, ...], outputs: int, shared: bool = True
) -> dict[str, PyTree]:
    """Parameters of `network`: a list of hidden layers and two heads. The key is consumed.

    Not `shared`, the hidden layers are the policy's, and the value's are a second list, "value_hidden".
    """
    *key_hidden, key_policy, key_value = jax.random.split(key, len(hidden) + 2)
    width = (inputs, *hidden)[-1]
    keys_value = [jax.random.fold_in(key, 1) for key in key_hidden]
    own = {} if shared else {"value_hidden": init_hidden(keys_value, inputs, hidden)}
    return {
        **own,
        "convolutions": [],
        "hidden": init_hidden(key_hidden, inputs, hidden),
        "policy": layer(key_policy, width, outputs, 0.01),  # close to uniform at first
        "value": layer(key_value, width, 1, 1.0),
    }


def network(
    params: dict[str, PyTree], x: Float32[Array, "B F"]
) -> tuple[Float32[Array, "B outputs"], Float32[Array, " B"]]:
    """Features to outputs of the policy (logits, of discrete actions) and values."""
    of_policy = through(params["hidden"], x)
    of_value = through(params["value_hidden"], x) if "value_hidden" in params else of_policy
    return linear(params["policy"], of_policy), linear(params["value"], of_value)[:, 0]


def init_hidden(keys: list[jax.Array], inputs: int, hidden: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    """Hidden layers, one key each. The keys are consumed."""
    sizes = (inputs, *hidden)
    return [layer(key, n, m, math.sqrt(2)) for key, n, m in zip(keys, sizes, sizes[1:])]


def through(hidden: list[dict[str, jax.Array]], x: Float32[Array, "B F"]) -> Float32[Array, "B D"]:
    """Features to the last hidden layer."""
    for layer in hidden:
        x = jax.nn.relu(linear(layer, x))
    return x


def layer(key: jax.Array, inputs: int, outputs: int, gain: float) -> dict[str, jax.Array]:
    """Return a linear layer, normal with standard deviation `gain / sqrt(inputs)`. The key is consumed."""
    weight = gain / math.sqrt(inputs) * jax.random.normal(key, (inputs, outputs), jnp.float32)
    return {"weight": weight, "bias": jnp.zeros(outputs, jnp.float32)}


def linear(layer: dict[str, jax.Array], x: Float32[Array, "B n"]) -> Float32[Array, "B m"]:
    """Apply one layer."""
    weight = layer["weight"]
    if weight.shape[1] <= FEW:
        columns = [x @ weight[:, i] for i in range(weight.shape[1])]
        return jnp.stack(columns).T + layer["bias"][None]
    return x @ weight + layer["bias"][None]


def clipped_adam(
    rate: Any, epsilon: jax.typing.ArrayLike, max_grad_norm: jax.typing.ArrayLike | None
) -> optax.GradientTransformation:
    """Adam at learning rate `rate`, after clipping the whole gradient by its global norm unless that is None."""
    adam = optax.adam(rate, eps=epsilon)
    return adam if max_grad_norm is None else optax.chain(optax.clip_by_global_norm(max_grad_norm), adam)


def descend(
    optimizer: optax.GradientTransformation, gradient: PyTree, params: PyTree, opt_state: PyTree
) -> tuple[PyTree, PyTree]:
    """One step: the next parameters and optimizer state."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes its int32 count with floats
        change, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, change), opt_state
