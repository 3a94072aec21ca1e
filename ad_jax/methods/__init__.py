"""How an in-context learner is made, by name. To add a method: a file with a `MethodConfig`, and a line here (or none).

Experiments of before there was a `method` said it in fields of their own; `modern` reads those, and the command line
goes on taking their names (`BEFORE`).
"""

from collections.abc import Mapping

from ad_jax import registry
from ad_jax.files import Json, JsonObject

METHODS = {
    "actor_learner": "ad_jax.methods.actor_learner:ActorLearner",
    "decision_transformer": "ad_jax.methods.decision_transformer:DecisionTransformer",
    "diffuser": "ad_jax.methods.diffuser:Diffuser",
    "distillation": "ad_jax.methods.distillation:Distillation",
    "dpt": "ad_jax.methods.dpt:DPT",
    "gato": "ad_jax.methods.gato:Gato",
    "multi_game_dt": "ad_jax.methods.multi_game_dt:MultiGameDT",
    "offline_distillation": "ad_jax.methods.offline_distillation:OfflineDistillation",
    "on_policy_distillation": "ad_jax.methods.on_policy_distillation:OnPolicyDistillation",
    "policy_distillation": "ad_jax.methods.policy_distillation:PolicyDistillation",
    "rl2": "ad_jax.methods.rl2:RL2",
    "tap": "ad_jax.methods.tap:TAP",
    "trajectory_transformer": "ad_jax.methods.trajectory_transformer:TrajectoryTransformer",
}
DEFAULT = "distillation"
BEFORE = {"distill": "distillation", "rl2": "rl2"}  # field of an experiment -> the method whose options it held


def name_of(method: object) -> str:
    """Return the name by which JSON and the command line know the class of a method."""
    return registry.name_of(type(method), METHODS)


def as_before(method: object, options: Mapping[str, Json]) -> JsonObject:
    """Return the changed `options` of a method in the fields that held them before there was a `method`."""
    name = name_of(method)
    field = next((field for field, known in BEFORE.items() if known == name), None)
    if field is None:
        return {"method": {"name": name, "options": dict(options)}}
    return {field: dict(options)} if options or name != DEFAULT else {}


def modern(experiment: Mapping[str, Json]) -> JsonObject:
    """Return an experiment's plain data with `method` as `{"name", "options"}`, whatever version wrote it."""
    data = dict(experiment)
    said = {BEFORE[field]: options for field in BEFORE if (options := data.pop(field, None)) is not None}
    replay = data.get("replay")
    if isinstance(replay, Mapping) and "labels" in replay:
        data["replay"] = {name: value for name, value in replay.items() if name != "labels"}
        if replay["labels"] == "optimal" and list(said) == ["distillation"]:
            said = {"dpt": said["distillation"]}
    if said and "method" not in data:
        name, options = list(said.items())[-1]
        data["method"] = {"name": name, "options": options}
    return data
