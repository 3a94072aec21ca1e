"""Policies that are scripted and not trained, by name. To add one: a file with a `PolicyConfig`, and a line here.

An experiment has one where it would have its model, `model=Random()`; nothing is then collected or trained.
"""

POLICIES = {
    "explorer": "ad_jax.policies.explorer:Explorer",
    "random": "ad_jax.policies.random:Random",
    "thompson": "ad_jax.policies.thompson:Thompson",
}
