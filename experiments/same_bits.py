"""Fingerprints of histories, parameters and rollouts at smoke size, so that a refactoring can be held to equal bits.

    python experiments/same_bits.py before.json      at the commit before
    python experiments/same_bits.py after.json --against before.json      at the one after; names what differs

Every family with every source that accepts it (histories), every backbone trained for 50 updates (histories,
parameters, returns), every scripted policy (returns), and every experiment at scale smoke. Each case runs through the
command line, so the tool outlives changes of the Python below it. Floating-point bits differ between processors and JAX
versions: compare files of one machine.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FAMILIES = {
    "dark_room": [],
    "dark_room_hard": [],
    "dark_room_permuted": [],
    "dark_key_to_door": [],
    "bandit": [],
    "watermaze": [],
    "gymnax": ["env.env_id=CartPole-v1", "env.steps=20"],
}
SOURCES = ("q_learning", "ucb", "noisy_oracle", "actor_critic", "ppo", "primal_dual", "dqn")
BACKBONES = {
    "transformer": ["model.layers=2", "model.width=16", "model.heads=2", "model.window=20"],
    "paper": ["model.layers=1", "model.width=16", "model.heads=2", "model.window=40"],
    "lstm": ["model.width=16"],
    "dpt": ["model.layers=1", "model.width=16", "model.heads=2", "model.window=20"],
}
POLICIES = {
    "random": ["dark_room"],
    "explorer": ["dark_room", "model.beam=300"],
    "thompson": ["bandit_adversarial", "model.points=64"],
}
SMALL = ["tasks.train=4", "tasks.held_out=2", "collect.seeds=2", "collect.episodes=10", "collect.chunk_learners=4"]
ROOT = Path(__file__).parent


def cases() -> dict[str, list[str]]:
    """Command lines by name, without where they write."""
    found = {}
    for family, options in FAMILIES.items():
        for source in SOURCES:
            changes = [f"env={family}", *options, f"source={source}", *SMALL]
            found[f"{family} x {source}"] = ["collect", "dark_room", "--scale", "smoke", *changes]
    for backbone, options in BACKBONES.items():
        changes = [f"model={backbone}", *options, "distill.updates=50", "distill.checkpoint_every=25", "tasks.used=8"]
        found[f"{backbone} on dark_room"] = ["run", "dark_room", "--scale", "smoke", *changes]
    for policy, (experiment, *options) in POLICIES.items():
        found[f"policy {policy}"] = ["run", experiment, "--scale", "smoke", f"model={policy}", *options]
    for path in sorted(ROOT.glob("*/config.py")):
        found[f"experiment {path.parent.name}"] = ["run", path.parent.name, "--scale", "smoke"]
    return found


def digest(data: Any) -> str:
    """Twelve hex digits of bytes or plain data."""
    raw = data if isinstance(data, bytes) else json.dumps(data, sort_keys=True).encode()
    return hashlib.sha256(raw).hexdigest()[:12]


def histories_in(folder: Path) -> str:
    """Of every array of a collection, read by itself."""
    import numpy as np

    from ad_jax import open_store

    arrays = {}
    histories = open_store(str(folder)).read()
    for name in ("observation", "action", "reward", "terminated", "truncated"):
        array = np.asarray(getattr(histories.transition, name))
        arrays[name] = [str(array.dtype), list(array.shape), digest(array.tobytes())]
    return digest(arrays)


def parameters_in(folder: Path) -> str:
    """Of the parameters of the last checkpoint, by name."""
    import jax
    import numpy as np

    from ad_jax import Agent

    leaves = jax.tree_util.tree_leaves_with_path(Agent.load(folder).params)
    return digest({jax.tree_util.keystr(path): digest(np.asarray(leaf).tobytes()) for path, leaf in leaves})


def returns_in(path: Path) -> str:
    """Of what every set of a run's results says."""
    (run,) = json.loads(path.read_text())["runs"]
    keys = ("name", "returns", "steps", "source_returns", "source_steps", "optimal", "random")
    return digest([{key: one.get(key) for key in keys} for one in run["sets"]])


def fingerprint(command: list[str]) -> dict[str, str]:
    """Return what one command line makes, in digests; or what it was refused for."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        whole = [sys.executable, "-m", "ad_jax", *command, "--dir", str(folder)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"refused": done.stderr.strip().splitlines()[-1].replace(str(folder), "DIR")}
        found = {}
        if (folder / "histories").is_dir():
            found["histories"] = histories_in(folder / "histories")
        if (folder / "checkpoints").is_dir():
            found["parameters"] = parameters_in(folder)
        if (folder / "results.json").exists():
            found["returns"] = returns_in(folder / "results.json")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="a file of before: exit status 1 where a digest differs")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    known = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name, command in cases().items():
        if args.only in name and name not in known:
            known[name] = fingerprint(command)
            args.out.write_text(json.dumps(known, indent=1) + "\n")
            print(name, *known[name].items(), flush=True)
    if args.against:
        before = json.loads(args.against.read_text())
        changed = [name for name in known if before.get(name) != known[name]]
        print(f"{len(known) - len(changed)} of {len(known)} cases have the same bits", *changed, sep="\n  ")
        sys.exit(bool(changed))


if __name__ == "__main__":
    main()
