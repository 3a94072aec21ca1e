"""The task-family contract: a gymnax 1.x environment whose task is its `EnvParams`.

A family is a frozen dataclass: its fields are the static options (size, episode length, variant), so it hashes, prints
and serializes itself. What differs between tasks is in `EnvParams`, a pytree of array leaves, so tasks `vmap`.

Our loops never call `Environment.step`, which resets by itself and draws the reset key inside; they call `advance`,
which keeps the task, draws a fresh start at each episode boundary, and keeps terminated and truncated apart.
"""

import dataclasses
import functools
import hashlib
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, Literal

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces
from gymnax.environments.environment import TEnvParams, TEnvState

from ad_jax.envs import distinct
from ad_jax.envs.leaves import num_tasks as num_tasks
from ad_jax.envs.leaves import take as take
from ad_jax.envs.leaves import tasks_of
from ad_jax.envs.spaces import action_from, spec_from
from ad_jax.envs.stepping import Outcome as Outcome
from ad_jax.envs.stepping import advance as advance
from ad_jax.envs.stepping import reset as reset
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.keys import a_key, as_data
from ad_jax.registry import conform
from ad_jax.types import Array, Box, Discrete, PyTree, Spec, discrete
from ad_jax.values import no_action


@dataclasses.dataclass(frozen=True)
class TaskSplit:
    """Disjoint tasks. `held_out` maps the name of each evaluation set to its tasks; the first is the main one."""

    train: PyTree
    held_out: Mapping[str, PyTree]
    kind: str  # what is unseen: "by row" of the task table, "by seed" of the task distribution, "by factor"


@dataclasses.dataclass(frozen=True)
class TaskFamily(environment.Environment[TEnvState, TEnvParams], Generic[TEnvState, TEnvParams]):
    """A distribution of tasks over one environment. Subclass it as a frozen dataclass of static options.

    Required: gymnax's `reset_env`, `step_env`, `observe`, `action_space`, `observation_space`, `default_params`, and
    `episode_length`, and `sample_tasks` or, where tasks can be counted, `all_tasks`. Families whose optimum is known
    override `optimal_return` and `random_return`.
    """

    def __post_init__(self) -> None:
        # Built by hand or by name, a misspelled variant must not quietly mean another one.
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = conform(f"{self.name}.{field.name}", getattr(self, field.name), hints[field.name])
            if isinstance(value, str):  # by its name of today, where that of an earlier version was given
                object.__setattr__(self, field.name, value)

    # Whether episodes can be played. Opaque tasks, which are ids, are trained on alone (`ad_jax.history.opaque`).
    simulated: ClassVar[bool] = True

    if TYPE_CHECKING:  # a property to override or a field of the dataclass; a declaration would forbid one or the other

        def __getattr__(self, name: Literal["episode_length"]) -> int: ...

    else:

        @property
        def episode_length(self) -> int:
            """Most steps that one episode can have (static)."""
            raise NotImplementedError

    # The types that a family's own methods have; gymnax's base class also takes Python's numbers for actions.
    def reset_env(self, key: jax.Array, params: TEnvParams) -> tuple[Array, TEnvState]:
        """Begin an episode of the task `params`: its first observation `[*O]`, and its state. The key is consumed."""
        raise NotImplementedError

    def step_env(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key: jax.Array, state: TEnvState, action: jax.Array, params: TEnvParams
    ) -> tuple[Array, TEnvState, Array, Array, dict[str, PyTree]]:
        """Take one step: observation `[*O]`, state, reward `[]`, terminated `[]`, and whatever else is to be told.

        The key is consumed. `action` is `[]` int32, or `[*shape]` float32 of a `Box`; the time limit is not looked at.
        """
        raise NotImplementedError

    def observe(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key: jax.Array, state: TEnvState, action: jax.Array | None, params: TEnvParams
    ) -> Array:
        """Return the observation `[*O]` of `state`, to which `action` led; None where an episode begins."""
        return super().observe(key, state, action, params)

    @property
    def reward_dtype(self) -> np.dtype:
        """Narrowest dtype that holds every reward exactly; how rewards are stored."""
        return np.dtype(np.float32)

    def sample_tasks(self, key: jax.Array, n: int) -> TEnvParams:
        """Draw n tasks. The key is consumed. Returns params with leading axis `[n]` on every leaf.

        Countable families need not override it: rows of their table are drawn, with replacement.
        """
        table = self.all_tasks()
        if table is None:
            raise NotImplementedError(f"{self.name} must define sample_tasks or all_tasks")
        return take(table, jax.random.randint(key, (n,), 0, num_tasks(table), jnp.int32))

    def all_tasks(self) -> TEnvParams | None:
        """Every task, leading axis `[N]`, where they can be counted; else None."""
        return None

    def task_ids(self, tasks: TEnvParams) -> list[str]:
        """One name per task, equal exactly when the tasks are: what "unseen" is proved with. `tasks` is batched."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(as_data(tasks))]

        def digest(i):
            return hashlib.sha256(b"".join(leaf[i].tobytes() for leaf in leaves)).hexdigest()[:16]

        return [digest(i) for i in range(len(leaves[0]))]

    def describe(self, task: TEnvParams) -> str:
        """One task in words."""
        return str(jax.tree.map(lambda x: np.asarray(x).tolist(), as_data(task)))

    def split(self, seed: int, train: int, held_out: int) -> TaskSplit:
        """Disjoint train and held-out tasks, fixed by the seed.

        Countable families permute the rows of their task table; others draw `train + held_out` tasks, and draw again
        to fill the places of those that came twice.

        Raises:
            ValueError: if there are not that many tasks, if one side would be empty, or if a task would stand there
                twice.
        """
        if train < 1 or held_out < 1:
            raise ValueError(f"a split needs at least 1 train and 1 held-out task; got {train} and {held_out}")
        table = self.all_tasks()
        if table is None:

            def seeded(again):
                return jax.random.fold_in(a_key(seed), 0x5B117 + again)

            def draw(again):
                return self.sample_tasks(seeded(again), train + held_out)

            tasks = distinct.drawn(self.name, draw, train + held_out)
            split = TaskSplit(take(tasks, slice(train)), {"held_out": take(tasks, slice(train, None))}, "by seed")
            check_split(self, split)
            return split
        count = num_tasks(table)
        distinct.check_table(self.name, self.task_ids(table), table)
        if train + held_out > count:
            raise ValueError(f"{self.name} has {count} tasks; {train} train + {held_out} held-out were asked for")
        order = np.asarray(_order(np.uint32(seed % 2**32), count))
        return TaskSplit(
            take(table, np.sort(order[:train])),
            {"held_out": take(table, np.sort(order[train : train + held_out]))},
            "by row",
        )

    def optimal_return(self, tasks: TEnvParams) -> np.ndarray | None:
        """Return the expected return of the best policy that knows the task, `[N]` float64, or None if unknown."""
        return None

    def random_return(self, tasks: TEnvParams) -> np.ndarray | None:
        """Return the expected return of the uniformly random policy, `[N]` float64, or None if unknown."""
        return None

    def starts_at(self, observation: jax.Array, params: TEnvParams) -> TEnvState | None:
        """Return the state in which an episode of the task `params` begins that shows `observation` `[*O]` first.

        None, the default, where that does not tell the state. Histories that somebody else collected are checked with
        it, step by step, against `step_env`.
        """
        return None

    def optimal_action(self, state: TEnvState, task: TEnvParams) -> jax.Array | None:
        """Return what a best policy that knows the task does in `state`, or None if unknown.

        `[]` int32, or float32 of the shape of the `Box` that actions are in.

        Followed from the first step on, it earns `optimal_return`, where that is known.
        """
        return None

    def optimal_label(self, observation: jax.Array, task: TEnvParams) -> jax.Array | None:
        """`optimal_action` where a stored observation and the task decide it, else None.

        It is what stored histories are relabeled with, which hold no states.
        """
        return None

    @property
    def start_varies(self) -> bool | None:
        """Whether episodes of one task begin in different states; None where the family does not say."""
        return None

    def destinations(self, task: TEnvParams) -> Array | None:
        """Return the observations that a task is to reach, in this order, `[G, *O]`, or None if there are none.

        A planner is given them by evaluation where it is asked for the goals of held-out tasks. Where there are
        `coordinates` they are in those, `[G, n]`; real numbers that may be anything are NaN.
        """
        return None

    def coordinates(self, observation: Array) -> Array | None:
        """Return where one stored observation `[*O]` is, `[n]` float32 from -1 to 1, or None: it says so itself.

        For planners, where what an agent sees is a picture, or one of too many whole numbers. Angles should come as
        cosine and sine, so that near states have near numbers.
        """
        return None

    def source_observation_space(self, params: TEnvParams) -> spaces.Discrete | spaces.Box | None:
        """Return the space of `source_observation`, or None where that is the observation itself."""
        return None

    def source_observation(self, state: TEnvState, observation: jax.Array) -> jax.Array:
        """Return what a privileged source acts on in `state`: the observation, and state that it hides.

        Only the source sees it. Histories hold plain observations, and so does the distilled model's context.
        """
        return observation

    def render(self, observation: Array) -> Array:
        """Return what the agent sees of one stored observation `[*O]`: by default, that itself.

        A family with pictures steps, stores and carries something small (a pose) and overrides this with a pure
        function to uint8 `[height, width, channels]`. It is called where a network looks and nowhere else: on a batch
        drawn for training, before a decoded step, in a source that has a network. It knows no task, and its bits must
        not depend on the batch, because training and acting render the same step in different ones.
        """
        return observation

    def trace(self, state: TEnvState, action: jax.Array) -> jax.Array:
        """Return a few integers that locate this step in a picture of the task: `[k]` int32.

        Default: the action; of a `Box`, which tenth of its range each component is in, 0..9. `state` is the one acted
        from, before the step.
        """
        stated = self.action_spec
        if isinstance(stated, Discrete):
            return action[None]
        low, high = stated.bounds
        return jnp.clip(jnp.floor(10 * (action - low) / (high - low)), 0, 9).astype(jnp.int32).reshape(-1)

    def picture(self, task: TEnvParams) -> JsonObject:
        """How to draw `trace`, as plain data: `{"kind": "grid", "size", "goal"}`, `{"kind": "arms", "means"}`, or
        `{"kind": "pool", "size", "goal", "radius"}`, a disc of that diameter in whole units, traced as (x, y).
        A grid may add `"key"`; its goal is then drawn as a door. Of another kind nothing is drawn: `"none"` is the
        default for actions in a Box.
        """
        return {"kind": "arms", "means": None} if isinstance(self.action_spec, Discrete) else {"kind": "none"}

    @property
    def num_actions(self) -> int:
        """A.

        Raises:
            ConfigError: where actions are no Discrete space.
        """
        return discrete(self.action_spec, self.name).n

    @property
    def action_spec(self) -> Discrete | Box:
        """What an action is.

        Raises:
            ConfigError: for a space that is neither Discrete nor a Box of float32 with finite bounds.
        """
        with jax.ensure_compile_time_eval():  # bounds may be JAX's arrays, and this is read while tracing
            space = self.action_space(self.default_params)  # pyright: ignore[reportArgumentType]
            return action_from(self.name, space)

    @property
    def options(self) -> JsonObject:
        """The static options, for provenance: `type(family)(**options)` is the same family."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@functools.partial(jax.jit, static_argnums=1)
def _order(seed: Array, count: int) -> Array:
    """Return the numbers below `count` in an order that `seed` fixes, `[]` uint32: one program, not one a step."""
    return jax.random.permutation(jax.random.fold_in(a_key(seed), 0x5B117), count)


def check_split(family: TaskFamily, split: TaskSplit) -> None:
    """Raise ConfigError if a task stands in a set twice or on both sides, or if different tasks share an id."""

    def named(tasks):
        return (family.task_ids(tasks), tasks)

    distinct.check_sets(family.name, named(split.train), {name: named(x) for name, x in split.held_out.items()})


def has_labels(family: TaskFamily) -> bool:
    """Whether the family has an `optimal_label`. Compiles nothing."""
    spec = spec_of(family)
    observation = jax.ShapeDtypeStruct(spec.shape, spec.compute_dtype)
    return jax.eval_shape(family.optimal_label, observation, family.default_params) is not None


def optimal_labels(family: TaskFamily, observation: Array, leaves: Mapping[str, Array]) -> np.ndarray:
    """Return the family's `optimal_label` at every step of histories, `[H, T, *A]` in the narrowest dtype.

    Args:
        family: whose `optimal_label` is asked.
        observation: `[H, T, *O]`, as stored.
        leaves: of each history's task, `[H, ...]` by dotted path, as stored.

    Raises:
        ConfigError: if a label is no action.
    """
    found = _labeler(family)(jnp.asarray(observation), tasks_of(family, leaves))
    labels, wrong, at, label = map(np.asarray, found)
    if wrong.any():
        row, stated = int(wrong.argmax()), family.action_spec
        actions = f"0..{stated.n - 1}" if isinstance(stated, Discrete) else f"in {stated}"
        raise ConfigError(
            f"{family.name}.optimal_label gives {label[row]} at step {at[row]} of history {row} of its chunk; actions "
            f"are {actions}. Mend it, or set method=distillation"
        )
    return labels


@functools.lru_cache(maxsize=16)
def _labeler(family: TaskFamily) -> Callable[[Array, PyTree], PyTree]:
    """Compiled once for chunks of one size, however many there are."""
    spec = spec_of(family)

    def of_history(history):
        observation, task = history
        label = jax.vmap(lambda o: jnp.asarray(family.optimal_label(o, task)))(observation.astype(spec.compute_dtype))
        wrong = no_action(spec.action, label.reshape(len(label), -1)).any(axis=-1)
        at = jnp.argmax(wrong)
        return label.astype(spec.action_dtype), wrong[at], at, label[at]

    return jax.jit(lambda observation, task: jax.lax.map(of_history, (observation, task)))


def spec_of(family: TaskFamily) -> Spec:
    """Return the `Spec` of what `step_env` gives and histories store, read from the family's gymnax spaces.

    Raises:
        ConfigError: for a space that no model here can embed (says which, and what can be).
    """
    embedded = type(family).render is TaskFamily.render  # else what `render` makes of it is what models see
    return _spec(family, family.observation_space(family.default_params), embedded)


def source_view(family: TaskFamily, privileged: bool) -> tuple[Spec, Callable[[PyTree, jax.Array], jax.Array]]:
    """Return what a source acts on: its `Spec`, and `view(state, observation)`, which gives it.

    That is `source_observation` for a `privileged` source, and else what `render` shows of the observation.

    Raises:
        ConfigError: if `privileged` where the family has nothing more to give; as `spec_of`.
    """
    if not privileged:
        return seen_spec_of(family), lambda state, observation: family.render(observation)
    space = family.source_observation_space(family.default_params)
    if space is None:
        raise ConfigError(
            f"source.privileged=True: {family} hides no state that a source could be given. Leave it False"
        )
    return _spec(family, space), family.source_observation


def _spec(family: TaskFamily, space: object, embedded: bool = True) -> Spec:
    return spec_from(family.name, family.action_spec, space, embedded)


def seen_spec_of(family: TaskFamily) -> Spec:
    """Return the `Spec` of what the agent sees, after `render`: what models and networks are built for.

    Raises:
        ConfigError: if `render` makes anything but a picture.
    """
    stored = spec_of(family)
    if type(family).render is TaskFamily.render:
        return stored
    seen = jax.eval_shape(family.render, jax.ShapeDtypeStruct(stored.shape, stored.compute_dtype))
    if seen.ndim != 3 or seen.dtype != jnp.uint8:
        raise ConfigError(f"{family.name}: render must give uint8 [height, width, channels]; got {seen}")
    return Spec(stored.action, seen.shape, None, pixels=True)
