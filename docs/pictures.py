"""Draws the pictures in docs/envs and docs/sources: `python docs/pictures.py`, or with some of their names after it.

In: nothing; source learners run here, with the settings below. Out: a PNG beside each page, and for each picture a line
with the numbers that its caption states. A few minutes on one core. docs/envs/watermaze.png has a script of its own.
"""

import functools
import io
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from ad_jax import envs, sources
from ad_jax.envs.base import num_tasks, take
from ad_jax.envs.grid import MOVES
from ad_jax.history import lifetimes
from ad_jax.process import provenance
from ad_jax.report import figures, ways
from ad_jax.report.figures import BLUE, GRAY, GREEN, ORANGE, STYLE, Band
from ad_jax.report.report import bootstrap
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage import collect
from ad_jax.text import number
from ad_jax.types import Histories

DOCS = Path(__file__).parent
SEED = 0
TABLE = {"learning_rate": 0.5, "discount": 0.9, "exploration_episodes": 200.0}
STAGED = {"discount": 0.95, "exploration_episodes": 200.0, "privileged": True}
OPTIMISTIC = {"discount": 0.95, "epsilon_start": 0.0, "initial_value": 1.0, "privileged": True}
POLES = {
    "env_id": "CartPole-v1",
    "vary": {"length": [0.25, 1.0], "force_mag": [5.0, 15.0]},
    "steps": 200,
    "scale": [1.0, 1.0, 0.1, 1.0],
}
BALANCE = {
    "actors": 8,
    "unroll": 32,
    "epochs": 8,
    "minibatches": 2,
    "hidden": [32, 32],
    "learning_rate": 1e-3,
    "discount": 0.98,
    "trace_decay": 0.8,
    "decay_updates": 375.0,
}
PUSH = {
    "actors": 8,
    "unroll": 20,
    "epochs": 8,
    "minibatches": 2,
    "hidden": [32, 32],
    "learning_rate": 3e-3,
    "discount": 0.9,
    "trace_decay": 0.9,
    "decay_updates": 120.0,
}
FEW = {"actors": 16, "unroll": 20, "hidden": [64, 64], "learning_rate": 3e-3, "discount": 0.95}


class Lifetime(NamedTuple):
    """One learner on each of some tasks."""

    title: str
    family: Any
    tasks: Any
    histories: Histories  # rows: actors of a learner side by side
    # Of each episode where all have full length; else the mean of those that end in each piece of a lifetime, which is
    # as long as the longest episode can be. So slow and quick learners are shown at the same steps.
    returns: np.ndarray  # [N, actors, E]
    early: bool  # whether episodes end early


def live(
    env: str, options: dict[str, Any], source: str, config: dict[str, Any], count: int, episodes: int, title: str = ""
) -> Lifetime:
    """Return the training tasks of split 0, `count` of them (0: every task), one learner each."""
    family = envs.make(env, options)
    tasks = family.all_tasks() if count == 0 else family.split(0, count, 1).train
    made = sources.make(source, config).make(family)
    collector = collect.Collector(family, made, episodes, make_mesh(MeshConfig()), num_tasks(tasks))
    ids = family.task_ids(tasks)
    histories = collect.as_histories(collector.run(SEED, tasks, ids, 1, 0), tasks, ids, 1, 0, len(ids))
    t = histories.transition
    found = lifetimes.episodes_of(t.reward, t.terminated | t.truncated)
    early = any((steps < family.episode_length).any() for steps in found.steps)
    returns = found.curve(family.episode_length).reshape(len(ids), made.actors, -1)
    return Lifetime(title or env, family, tasks, histories, returns, early)


def last(returns: np.ndarray) -> np.ndarray:
    """Mean of the last tenth of `[..., E]` episodes."""
    return returns[..., -max(1, returns.shape[-1] // 10) :].mean(-1)


@functools.cache
def balancing() -> Lifetime:
    """PPO on CartPole, whose episodes end early: minutes, for two pictures."""
    return live("gymnax", POLES, "ppo", BALANCE, 24, 60, "gymnax CartPole")


def known(values: np.ndarray | None) -> float | None:
    """Mean over tasks of what a family states."""
    return None if values is None else float(values.mean())


def band(returns: np.ndarray, most: int = 100) -> Band:
    """Mean over learners with its 95 % bootstrap interval of `[N, E]`; episodes from 1, in at most `most` groups."""
    width = -(-returns.shape[1] // most)
    whole = returns.shape[1] // width * width
    grouped = returns[:, :whole].reshape(len(returns), -1, width).mean(-1)
    return Band(np.arange(grouped.shape[1]) * width + (width + 1) / 2, *bootstrap(grouped[None].astype(float)))


def curve(axes: Axes, lifetime: Lifetime, unit: str = "episode", most: int = 100) -> None:
    """Learning curve of a source, with the optimum, the random policy and, in the title, where it ends."""
    optimal, random = (
        known(f(lifetime.tasks)) for f in (lifetime.family.optimal_return, lifetime.family.random_return)
    )
    shown = band(lifetime.returns.mean(1), most)
    if lifetime.early:
        unit = "environment steps of each actor"
        shown = shown._replace(x=shown.x * lifetime.family.episode_length)
    figures._draw(axes, shown, "", BLUE, "-", 1.6, 0.25)
    figures._references(axes, optimal, random)
    end = last(lifetime.returns).mean()
    told = number(end, optimal or end) + ("" if optimal is None else f" of {number(optimal)}")
    axes.set_title(f"{lifetime.title}\nlast 10 %: {told}", loc="left", fontsize=8.5)
    axes.set(xlabel=unit, xlim=(shown.x[0], shown.x[-1]))
    axes.set_ylim(min(0.0, float(shown.low.min())), 1.06 * max(float(shown.high.max()), optimal or 0.0))
    print(
        f"  {lifetime.title}: last tenth {end:.4g}, optimal {optimal}, random {random}, [N, actors, E] "
        f"{lifetime.returns.shape}"
    )


def curves(*lived: Lifetime, unit: str = "episode", most: int = 100) -> Figure:
    """Learning curves side by side."""
    figure = Figure(figsize=(3.5 * len(lived), 2.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(lived)))
    for axes, lifetime in zip(panels, lived, strict=True):
        curve(axes, lifetime, unit, most)
    panels[0].set_ylabel("reward" if unit == "pull" else "return per episode")
    return figure


def paths(lifetime: Lifetime, row: int, episodes: tuple[int, ...]) -> Figure:
    """Return what one learner did in some episodes (from 1) on a grid."""
    length, positions = lifetime.family.episode_length, lifetime.histories.transition.observation[row]
    shown = [
        {
            "episode": episode,
            "return": float(lifetime.returns[row, 0, episode - 1]),
            "points": positions[(episode - 1) * length : episode * length].tolist(),
        }
        for episode in episodes
    ]
    return ways.grid_paths(lifetime.family.picture(take(lifetime.tasks, row)), shown)


# Families.


def dark_room() -> Figure:
    """Return a tabular learner's way through the room, on a far goal."""
    lifetime = live("dark_room", {}, "q_learning", TABLE, 0, 400)
    return paths(lifetime, 10, (1, 60, 100, 140, 180, 400))


def dark_room_hard() -> Figure:
    """For each goal, how often an episode finds it: by chance, and by an optimistic learner."""
    lifetime = live("dark_room_hard", {}, "q_learning", OPTIMISTIC, 0, 1000)
    goals, by_chance = np.asarray(lifetime.tasks.goal), lifetime.family.random_return(lifetime.tasks)
    figure = Figure(figsize=(7.0, 3.1), layout="constrained")
    parts = (
        ("random policy, exact", by_chance, LogNorm(1e-6, 1.0)),
        ("first 100 episodes of a learner", lifetime.returns[:, 0, :100].mean(-1), None),
        ("its last 100 of 1000", lifetime.returns[:, 0, -100:].mean(-1), None),
    )
    for axes, (title, values, norm) in zip(figure.subplots(1, 3), parts, strict=True):
        image = np.zeros((lifetime.family.size,) * 2)
        image[goals[:, 0], goals[:, 1]] = values
        limits: dict[str, Any] = {"norm": norm} if norm else {"vmin": 0.0, "vmax": 1.0}
        drawn = axes.imshow(image, cmap="viridis", **limits)
        axes.set_title(f"{title}\nmean over goals {values.mean():.2f}", fontsize=8.5)
        axes.set(xticks=[0, 8, 16], yticks=[0, 8, 16], xlabel="column of the goal")
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", pad=0.03, aspect=14)
        bar.outline.set_visible(False)
        if norm:
            bar.set_ticks([1e-6, 1e-3, 1.0], labels=["0.000001", "0.001", "1"])
        print(f"  {title}: mean {values.mean():.3f}, corner {values[0]:.2g}")
    figure.axes[0].set_ylabel("row of the goal")
    return figure


def dark_room_permuted() -> Figure:
    """Return what the five actions do in three tasks."""
    family = envs.make("dark_room_permuted")
    tasks = take(family.split(0, 9, 1).train, np.array([1, 4, 7]))
    figure = Figure(figsize=(6.6, 2.5), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 3)):
        goal, moves = np.asarray(tasks.goal[i]), np.asarray(tasks.moves[i])
        for edge in np.arange(1, 9) - 0.5:
            axes.axhline(edge, color="#ececec", lw=0.5, zorder=0)
            axes.axvline(edge, color="#ececec", lw=0.5, zorder=0)
        for action, move in enumerate(moves):
            down, right = np.asarray(MOVES)[move]
            if down or right:
                axes.annotate(
                    "", (4 + 1.7 * right, 4 + 1.7 * down), (4, 4), arrowprops={"arrowstyle": "-|>", "color": BLUE}
                )
            ring = {} if down or right else {"bbox": {"boxstyle": "circle", "fc": "white", "ec": BLUE}}
            axes.text(
                4 + 2.4 * right,
                4 + 2.4 * down,
                str(action),
                ha="center",
                va="center",
                fontsize=11,
                color=BLUE,
                zorder=5,
                **ring,
            )
        axes.plot(goal[1], goal[0], "*", ms=12, color=figures.YELLOW, mec="black", mew=0.6)
        axes.set(xlim=(-0.5, 8.5), ylim=(8.5, -0.5), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        axes.set_title(f"goal ({goal[0]}, {goal[1]})", fontsize=8.5)
        print("  " + family.describe(take(tasks, i)))
    return figure


def dark_key_to_door() -> Figure:
    """Return a learner that is told whether it has the key, on its way from key to door."""
    lifetime = live("dark_key_to_door", {}, "q_learning", STAGED, 16, 400)
    return paths(lifetime, 2, (1, 60, 120, 180, 240, 400))


def bandit() -> Figure:
    """Which arm is best in each set of tasks, and the pulls of one UCB1 learner."""
    family = envs.make("bandit")
    split = family.split(0, 2000, 2000)
    lifetime = live("bandit", {}, "ucb", {}, 16, 200)
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, tasks) in enumerate(split.held_out.items()):
        share = np.bincount(np.asarray(tasks.means).argmax(1), minlength=family.arms) / 2000
        color = (BLUE, ORANGE, GRAY)[i]
        left.bar(np.arange(family.arms) + 0.27 * (i - 1), share, 0.25, color=color, label=name)
        print(f"  {name}: share with a best arm of odd number {share[1::2].sum():.3f}")
    left.set(xlabel="arm", ylabel="share of tasks in which it is best", xticks=range(family.arms))
    figures._legend(left)
    means, pulls = np.asarray(lifetime.tasks.means[0]), lifetime.histories.transition.action[0]
    order = np.argsort(-means)
    place = np.argsort(order)
    right.scatter(np.arange(1, len(pulls) + 1), place[pulls], 7, color=BLUE, lw=0)
    right.set_yticks(range(family.arms), [f"arm {arm}: {means[arm]:.2f}" for arm in order])
    right.invert_yaxis()
    right.set(xlabel="pull")
    return figure


def random_mdp() -> Figure:
    """Show what actions lead to in one world, and Q-learning in such worlds and in ones that slip."""
    plain = live("random_mdp", {}, "q_learning", TABLE | {"exploration_episodes": 100.0}, 64, 200, "random worlds")
    rough = {"branching": 2, "slip": 0.1}
    slipping = live(
        "random_mdp", rough, "q_learning", TABLE | {"exploration_episodes": 100.0}, 64, 200,
        "with two outcomes, and a slip of 0.1",
    )  # fmt: skip
    figure = Figure(figsize=(8.2, 2.7), layout="constrained")
    left, *right = figure.subplots(1, 3, width_ratios=(0.8, 1, 1))
    task = take(plain.tasks, 0)
    successor, pays = np.asarray(task.successor)[..., 0], np.asarray(task.reward)[..., 0] > 0
    rows, columns = np.indices(successor.shape)
    left.scatter(columns[pays], rows[pays], 90, color=ORANGE, lw=0)
    for row, column in zip(rows.ravel(), columns.ravel()):
        left.text(column, row, str(successor[row, column]), ha="center", va="center", fontsize=6.5)
    left.set(
        xlabel="action", ylabel="state", xticks=range(plain.family.actions), xlim=(-0.6, plain.family.actions - 0.4)
    )
    left.set(yticks=range(0, plain.family.states, 3), ylim=(plain.family.states - 0.3, -0.7))
    for axes, lifetime in zip(right, (plain, slipping)):
        curve(axes, lifetime)
    return figure


def gymnax() -> Figure:
    """Return the same learner on short and on long poles."""
    lifetime = balancing()
    length = np.asarray(lifetime.tasks.values["length"])
    order = np.argsort(length)
    figure = Figure(figsize=(5.6, 2.5), layout="constrained")
    axes = figure.subplots()
    for rows, color, dash in ((order[:8], BLUE, "-"), (order[-8:], ORANGE, (0, (4, 2)))):
        label = f"half the pole {length[rows].min():.2f} to {length[rows].max():.2f} m"
        shown = band(lifetime.returns[rows].mean(1))
        steps = shown.x * lifetime.family.episode_length
        figures._draw(axes, shown._replace(x=steps), label, color, dash, 1.6, 0.2)
        first, end = lifetime.returns[rows][..., 0].mean(), last(lifetime.returns[rows]).mean()
        print(f"  {label}: first {lifetime.family.episode_length} steps {first:.1f}, last tenth {end:.1f}")
    axes.axhline(200, color=GRAY, ls=(0, (6, 2)), lw=1.0)
    axes.set(xlabel="environment steps of each actor", ylabel="steps until the pole fell", ylim=(0, 210))
    axes.set_xlim(0, lifetime.returns.shape[2] * lifetime.family.episode_length)
    figures._legend(axes)
    return figure


def point_mass() -> Figure:
    """Return the same learner with light and with heavy bodies."""
    lifetime = live("point_mass", {}, "ppo", PUSH, 32, 120)
    mass = np.asarray(lifetime.tasks.mass)
    order = np.argsort(mass)
    figure = Figure(figsize=(5.6, 2.5), layout="constrained")
    axes = figure.subplots()
    for rows, color, dash in ((order[:16], BLUE, "-"), (order[-16:], ORANGE, (0, (4, 2)))):
        label = f"mass {mass[rows].min():.2f} to {mass[rows].max():.2f}"
        shown = band(lifetime.returns[rows].mean(1))
        figures._draw(axes, shown, label, color, dash, 1.6, 0.2)
        first, end = lifetime.returns[rows][..., 0].mean(), last(lifetime.returns[rows]).mean()
        print(f"  {label}: first episode {first:.2f}, last tenth {end:.2f}")
    axes.set(xlabel="episode of each actor", ylabel="return", ylim=(0, None), xlim=(0, lifetime.returns.shape[2]))
    figures._legend(axes)
    return figure


# Sources.


def ucb() -> Figure:
    """On both kinds of reward."""
    return curves(
        live("bandit", {}, "ucb", {}, 2000, 200, "bandit, rewards 0 and 1"),
        live(
            "bandit",
            {"reward": "gaussian"},
            "ucb",
            {"exploration": 0.5},
            2000,
            200,
            "Gaussian rewards, exploration 0.5",
        ),
        unit="pull",
    )


def q_learning() -> Figure:
    """On the family of the main experiment, and where it needs the hidden state."""
    return curves(
        live("dark_room", {}, "q_learning", TABLE, 65, 400, "dark_room"),
        live("dark_key_to_door", {}, "q_learning", STAGED, 65, 400, "dark_key_to_door, privileged"),
    )


def actor_critic() -> Figure:
    """Fewer actors and a larger learning rate than the paper's."""
    return curves(live("dark_room", {}, "actor_critic", FEW, 16, 300, "dark_room"))


def ppo() -> Figure:
    """On real observations."""
    figure = curves(balancing())
    figures._references(figure.axes[0], float(POLES["steps"]), None)  # the family states none: a pole that never falls
    return figure


def dqn() -> Figure:
    """All actors, and the first and the last alone."""
    lifetime = live("dark_room", {}, "dqn", {"discount": 0.9, "actors": 8}, 12, 300, "dark_room, all actors")
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    curve(left, lifetime)
    left.set_ylabel("return per episode")
    for actor, color, dash in ((0, ORANGE, "-"), (7, GREEN, (0, (4, 2)))):
        one = lifetime.returns[:, actor]
        figures._draw(right, band(one), f"actor {actor}", color, dash, 1.4, 0.2)
        print(f"  actor {actor}: last tenth {last(one).mean():.4g}")
    figures._references(right, known(lifetime.family.optimal_return(lifetime.tasks)), None)
    right.set(xlabel="episode", xlim=(1, lifetime.returns.shape[2]))
    figures._legend(right)
    return figure


def primal_dual() -> Figure:
    """Beside one-step actor-critic, with the same sizes and rates."""
    same = {"actors": 8, "unroll": 32, "hidden": [32, 32], "learning_rate": 1e-3, "discount": 0.98}
    figure = curves(
        live("gymnax", POLES, "primal_dual", same, 8, 60, "gymnax CartPole, primal_dual"),
        live("gymnax", POLES, "actor_critic", same | {"trace_decay": 0.0}, 8, 60, "one-step actor_critic"),
    )
    for axes in figure.axes:
        axes.set_ylim(0.0, 1.06 * POLES["steps"])
    figures._references(figure.axes[1], float(POLES["steps"]), None)
    return figure


def noisy_oracle() -> Figure:
    """Whole, and with half of the situations unknown to it."""
    return curves(
        live("dark_room", {}, "noisy_oracle", {}, 65, 400, "dark_room"),
        live("dark_key_to_door", {}, "noisy_oracle", {"optimality": 0.9}, 65, 400, "dark_key_to_door, optimality 0.9"),
    )


FOLDERS = {
    "envs": (
        bandit,
        dark_key_to_door,
        dark_room,
        dark_room_hard,
        dark_room_permuted,
        gymnax,
        point_mass,
        random_mdp,
    ),
    "sources": (actor_critic, dqn, noisy_oracle, ppo, primal_dual, q_learning, ucb),
}


def main(names: list[str]) -> None:
    """Draw the pictures of these names, or all."""
    provenance.use_compilation_cache()
    for folder, pictures in FOLDERS.items():
        for picture in pictures:
            if names and picture.__name__ not in names and f"{folder}/{picture.__name__}" not in names:
                continue
            started = time.monotonic()
            print(f"{folder}/{picture.__name__}")
            with mpl.rc_context(STYLE):
                image = Image.open(io.BytesIO(figures.png(picture()))).convert("RGB")
            file = DOCS / folder / f"{picture.__name__}.png"
            image.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)  # a third of the bytes
            print(f"  {file.stat().st_size / 1000:.0f} kB, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
