"""Features that vary apart from each other, as a part of a loss: none then tells what another does.

Source: Mavrin, Graves and Chan 2019 (arXiv 1911.08610). Difference: the mean over the batch is taken away first, so
that features of one sign, as those of rectifiers, may all be large.
"""

import jax
import jax.numpy as jnp


def covariances(features: jax.Array) -> jax.Array:
    """Sum of the squared covariances of all pairs of different features, over a batch `[n, F]`: a scalar.

    The squares of the F x F products of features sum to those of the n x n products of rows, which are fewer here.
    """
    varying = features - features.mean(0, keepdims=True)
    every = jnp.sum((varying @ varying.T) ** 2)
    own = jnp.sum(jnp.sum(varying**2, axis=0) ** 2)
    return (every - own) / len(features) ** 2
