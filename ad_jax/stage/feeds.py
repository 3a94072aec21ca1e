"""What an update is fed: a batch of windows drawn from the resident histories, or the training tasks themselves.

In: what lies on the devices, and the key of an update. Out, inside the compiled program: what `Learner.update` is
given, and the rest of the key; on the host: the words that tell whose numbers an update saw.
"""

from collections.abc import Callable, Collection
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from ad_jax.history import replay as replay_lib
from ad_jax.history.replay import Replay
from ad_jax.methods.base import MethodConfig, Setting
from ad_jax.sharding import put, replicated
from ad_jax.types import Array, Batch, PyTree, Spec


class Feed(Protocol):
    """What stands between residents and `Learner.update`."""

    @property
    def tasks(self) -> PyTree:
        """The training tasks on every device, where those are fed; else None."""
        ...

    def draw(self, resident: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array]:
        """Return what an update learns from, and its own key. The key is consumed."""
        ...

    def told(self, resident: PyTree, key: jax.Array) -> str:
        """Return what the update with that key learned from, in words that follow its name."""
        ...


class Windows:
    """Batches of windows `[B, L]`, each device's from its own histories.

    Args:
        spec: of the observations as they are stored.
        render: what the model sees of one of them.
        inputs: which of the method's channels go to the model; the others are targets.
        needs: what the method asks for of each step, for its targets.
    """

    tasks: PyTree = None

    def __init__(
        self,
        spec: Spec,
        sampling: replay_lib.Config,
        mesh: Mesh,
        render: Callable[[Array], Array] = lambda observation: observation,
        inputs: Collection[str] = (),
        needs: Collection[str] = (),
    ):
        self.spec, self.sampling, self.mesh = spec, sampling, mesh
        self.render, self.inputs, self.needs = render, inputs, needs

    def draw(self, resident: Replay, key: jax.Array) -> tuple[Batch, jax.Array]:
        """Return a batch, and the key of the model. The key is consumed."""
        key_batch, key_model = jax.random.split(key)
        options = self.spec, self.sampling, self.mesh, self.render, self.inputs, self.needs
        return replay_lib.sample(resident, key_batch, *options), key_model

    def sampled_history_ids(self, resident: Replay, key: jax.Array) -> np.ndarray:
        """Numbers of the histories that `draw` takes with the same key, `[B]` int32."""
        return replay_lib.sampled_history_ids(resident, jax.random.split(key)[0], self.sampling, self.mesh)

    def told(self, resident: Replay, key: jax.Array) -> str:
        """Return the first of the histories, each once."""
        each = sorted(set(self.sampled_history_ids(resident, key).tolist()))
        more = f" and {len(each) - 8} more" if len(each) > 8 else ""
        return f", of histories {', '.join(map(str, each[:8]))}{more}"


class TrainingTasks:
    """The training tasks `[N]`, a copy on every device, with the teacher's parameters where the method has a teacher.

    They are their own residents.
    """

    period = 0  # always the same

    def __init__(self, tasks: PyTree, mesh: Mesh):
        self.tasks = put(tasks, replicated(mesh))

    def draw(self, resident: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array]:
        """All of them, and the whole key."""
        return resident, key

    def told(self, resident: PyTree, key: jax.Array) -> str:
        """Nothing: which tasks an update drew is the learner's business."""
        return ""

    def at(self, _: int) -> PyTree:
        """Return the tasks, whatever the step."""
        return self.tasks

    def facts(self) -> dict[str, float]:
        """Nothing was waited for."""
        return {}


def feed_of(config: MethodConfig, s: Setting) -> Windows | TrainingTasks:
    """Return what a method is fed in a setting."""
    if config.feed == "tasks":
        return TrainingTasks(s.tasks if s.teacher is None else (s.tasks, s.teacher.params), s.mesh)
    inputs = [name for name, _ in s.seen_spec.extra]
    return Windows(s.spec, s.sampling, s.mesh, s.family.render, inputs, config.needs)
