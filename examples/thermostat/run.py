"""One controller for many buildings, none of which it knows: it finds out in its context.

    python -m examples.thermostat.run            # three trainings; interrupted, it goes on with the next of them
    python -m examples.thermostat.run --quick    # every part in seconds; learns nothing

A planner that knows the building it is in controls 128 of them for 20 days each, with noise that wanes. A transformer
is distilled from that. Frozen, it gets buildings that it has never seen, for 20 days; on day 10 each heater loses half
of its power. README.md has the claims and the verdict.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax import (
    Agent,
    CollectConfig,
    Distillation,
    Experiment,
    NoisyOracle,
    ReplayConfig,
    TaskConfig,
    Transformer,
)
from ad_jax.envs.base import num_tasks, spec_of
from ad_jax.report.bootstrap import bootstrap
from ad_jax.run import in_memory
from examples.thermostat.optimum import value_iteration
from examples.thermostat.world import DAY, LEVELS, Building, State, Thermostat

SEEDS = 3
# What decides: observation [N, 4], reward [N] of the step before (None at first), state -> levels [N].
Controller = Callable[[np.ndarray, np.ndarray | None, State], np.ndarray]


def experiment(seed: int, house: Thermostat, quick: bool = False) -> Experiment:
    """Return what is learned with a seed."""
    window = 2 * DAY
    return Experiment(
        name="thermostat",
        env=house,
        # No persistence: noise that lasts is copied from the action before, which a greedy policy never gets out of.
        source=NoisyOracle(noise_start=0.7, noise_end=0.1, noise_episodes=0.5),
        seed=seed,
        model=Transformer(layers=1, width=16, window=16) if quick else Transformer(layers=2, width=64, window=window),
        tasks=TaskConfig(train=8 if quick else 128, held_out=4 if quick else 32),
        collect=CollectConfig(seeds=1, episodes=1, chunk_learners=8 if quick else 128),
        replay=ReplayConfig(segment=16 if quick else window, batch=8 if quick else 16),
        method=Distillation(updates=2 if quick else 500, learning_rate=4e-3, warmup_updates=1 if quick else 50),
    )


def control(house: Thermostat, buildings: Building, controller: Controller, weathers: int = 0) -> np.ndarray:
    """Return what each day in each building costs, `[N, days]`.

    Each building has a weather of its own, the same for every controller; with `weathers`, so many take turns.
    """
    n, reward, rewards = num_tasks(buildings), None, []
    keys = jax.random.split(jax.random.key(0), n)[np.arange(n) % (weathers or n)]
    observation, state = jax.vmap(house.reset_env)(keys, buildings)
    for t in range(house.episode_length):
        level = controller(np.asarray(observation), reward, state)
        observation, state, reward = step(house, keys, t, state, jnp.asarray(level, jnp.int32), buildings)
        rewards.append(reward := np.asarray(reward))
    return -np.stack(rewards, 1).reshape(n, house.days, DAY).sum(-1)


@functools.partial(jax.jit, static_argnums=0)
def step(house: Thermostat, keys: jax.Array, t: int, state: State, level: jax.Array, buildings: Building):
    """Return observation, state and reward of every building, `[N, ...]`, after half an hour."""
    now = jax.vmap(jax.random.fold_in, (0, None))(keys, t + 1)
    return jax.vmap(house.step_env)(now, state, level, buildings)[:3]


def distilled(agent: Agent, buildings: int) -> Controller:
    """Return the distilled controller, of as many buildings side by side."""
    agent.reset(batch=buildings)

    def act(observation, reward, state):
        return agent.act(observation) if reward is None else agent.act(observation, reward, np.zeros(buildings, bool))

    return act


def wanted(observation: np.ndarray, lead: np.ndarray | float) -> np.ndarray:
    """Return the temperature that a program asks for, `[N]`: of the day from `lead` hours before people come on."""
    hour = np.arctan2(observation[:, 2], observation[:, 3]) % (2 * np.pi) * 12 / np.pi + 1e-3
    return np.where((hour >= 7 - lead) & (hour < 22), 21.0, 16.5)


def hysteresis(lead: np.ndarray | float, band: np.ndarray | float) -> Controller:
    """Return full power from `band` degrees below the wanted temperature until as many above it, else nothing."""
    on = None

    def act(observation, reward, state):
        nonlocal on
        error = wanted(observation, lead) - (20 + 5 * observation[:, 0])
        on = np.where(error > band, True, np.where(error < -band, False, on if on is not None else error > 0))
        return (LEVELS - 1) * on

    return act


def pi(lead: np.ndarray | float, gain: np.ndarray | float, integral: np.ndarray | float) -> Controller:
    """Return proportional and integral control; what rounding to a level leaves over is added to the next step."""
    total, left = 0.0, 0.0

    def act(observation, reward, state):
        nonlocal total, left
        error = wanted(observation, lead) - (20 + 5 * observation[:, 0])
        share = gain * error + total
        # The integral stands still where the heater can give no more or no less, else it winds up overnight.
        total = np.where((share > 1) & (error > 0) | (share < 0) & (error < 0), total, total + integral * error)
        exact = np.clip(share, 0, 1) * (LEVELS - 1)
        level = np.clip(np.round(exact + left), 0, LEVELS - 1)
        left = np.clip(left + exact - level, -0.5, 0.5)
        return level

    return act


def tuned(house: Thermostat, make: Callable[..., Controller], *choices: tuple[float, ...]) -> tuple[float, ...]:
    """Return the options with which a controller costs least in the average building, over eight weathers."""
    options = list(itertools.product(*choices))
    each = np.repeat(np.array(options), 8, axis=0)
    average = jax.tree.map(lambda x: np.stack([np.asarray(x)] * len(each)), house.default_params)
    cost = control(house, average, make(*each.T), weathers=8)
    return options[cost.reshape(len(options), -1).sum(1).argmin()]


def planner(house: Thermostat, buildings: Building) -> Controller:
    """Return the planner that knows each building and when its heater fails, and has a forecast without noise."""
    best = jax.jit(jax.vmap(house.optimal_action))
    return lambda observation, reward, state: np.asarray(best(state, buildings))


def others(house: Thermostat, buildings: Building, quick: bool) -> dict[str, np.ndarray]:
    """Return what the other controllers cost, `[N, days]` each; chance has no part in their training."""
    gains = ((0, 1, 2, 3), (0.2, 0.4, 0.8), (0.01, 0.03, 0.1))
    ways = {
        "PI": pi(*tuned(house, pi, *gains)),
        "hysteresis": hysteresis(*tuned(house, hysteresis, (0, 1, 2, 3), (0.1, 0.3, 0.6))),
        "planner that knows": planner(house, buildings),
        "value iteration": value_iteration(buildings, **{"points": 5, "days": 1} if quick else {}),
    }
    return {way: control(house, buildings, controller) for way, controller in ways.items()}


def run(e: Experiment, house: Thermostat, buildings: Building) -> np.ndarray:
    """Collect, distill, and control the held-out buildings: what each day costs, `[N, days]`."""
    learned = in_memory.train(e, in_memory.collect(e), lambda step, x: print(f"  {step} updates, {x['loss']:.3f}"))
    agent = Agent(learned.policy("greedy", 1.0), learned.params, spec_of(house))
    return control(house, buildings, distilled(agent, num_tasks(buildings)))


def held_out(house: Thermostat, tasks: TaskConfig) -> Building:
    """Return the buildings that are never trained on, each with a heater that fails halfway."""
    (buildings,) = house.split(tasks.split_seed, tasks.train, tasks.held_out).held_out.values()
    return dataclasses.replace(buildings, halves=np.full(tasks.held_out, house.days // 2, np.int32))


def by_way(results: dict[str, list]) -> dict[str, np.ndarray]:
    """Return costs `[R, N, days]` by way, of R seeds; the others are the same for each."""
    seeds = sorted(way for way in results if way.startswith("seed"))
    ways = {"distilled": np.array([results[seed] for seed in seeds])}
    for way in [way for way in results if way not in seeds]:
        ways[way] = np.array([results[way]] * len(seeds))
    return ways


def verdict(results: dict[str, list]) -> list[str]:
    """Return the sentences that README.md ends with."""
    ways = by_way(results)
    days = ways["distilled"].shape[-1]
    spans = {f"days {days // 10 + 1} to {days // 2}": slice(days // 10, days // 2)}
    spans[f"days {days // 2 + days // 10 + 1} to {days}"] = slice(days // 2 + days // 10, None)

    def told(values, digits="+.2f"):
        mean, low, high = (float(x[0]) for x in bootstrap(values.mean(-1, keepdims=True)))
        return high, f"{mean:{digits}} ({low:{digits}} to {high:{digits}})"

    lines = [
        f"| {way} | " + " | ".join(told(values[..., span], ".2f")[1] for span in spans.values()) + " |"
        for way, values in ways.items()
    ]
    for name, span in spans.items():
        for claim, bound in {
            "less than PI": ways["PI"],
            "less than hysteresis": ways["hysteresis"],
            "at most 1.15 of value iteration's": 1.15 * ways["value iteration"],
        }.items():
            high, text = told((ways["distilled"] - bound)[..., span])
            lines.append(f"It costs {claim}, {name}: **{'holds' if high < 0 else 'fails'}**, {text}.")
    return lines


def draw(results: dict[str, list], path: Path) -> None:
    """Draw cost by day."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ways = by_way(results)
    days = ways["distilled"].shape[-1]
    for way, values in ways.items():
        mean, low, high = bootstrap(values)
        (line,) = axes.plot(np.arange(days) + 1, mean, label=way, lw=2.5 if way == "distilled" else 1.2)
        axes.fill_between(np.arange(days) + 1, low, high, color=line.get_color(), alpha=0.1)
    axes.axvline(days / 2 + 0.5, color="gray", lw=0.8, ls=":")
    axes.set(
        xlabel="day",
        ylabel="cost of the day, degree-hours",
        title="Buildings never seen; half power from the dots on",
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(out: Path, quick: bool = False, seeds: int = SEEDS) -> dict[str, list]:
    """Run what `out` does not have yet, and draw."""
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "results.json"
    results = json.loads(saved.read_text()) if saved.exists() else {}
    house = Thermostat(days=2 if quick else 20)
    buildings = held_out(house, experiment(0, house, quick).tasks)
    if "PI" not in results:
        results |= {way: cost.round(4).tolist() for way, cost in others(house, buildings, quick).items()}
        saved.write_text(json.dumps(results))
    for seed in range(seeds):
        if f"seed {seed}" not in results:
            print(f"seed {seed}", flush=True)
            results[f"seed {seed}"] = run(experiment(seed, house, quick), house, buildings).round(4).tolist()
            saved.write_text(json.dumps(results))
    draw(results, out / "figure.png")
    print("\n".join(verdict(results)))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every part in seconds; learns nothing")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/thermostat, or with _quick")
    asked = parser.parse_args()
    main(asked.out or Path("runs") / ("thermostat" + "_quick" * asked.quick), asked.quick)
