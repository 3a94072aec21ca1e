"""Whole runs of this code beside those of an older commit, in turn: what a recipe costs, and what it reaches.

    python experiments/speed/recipes.py b46aec0 dark_room:demo --seeds 0 1 --dir runs/recipes
    python experiments/speed/recipes.py b46aec0 dark_room_hard:cpu,demo --kept 0

An experiment is NAME:SCALE, or NAME:OLD,NEW where the two commits have different scales. Every run is a command of its
own, first with no compiled program kept, then `--kept` times with those of the first. Finished runs in `--dir` are read
and not made again, so a command that was stopped goes on. Written to `--out`: seconds of each stage, what was reached,
and ratios new / old; printed as a table.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.bench import commits
from ad_jax.process import provenance

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One experiment at a scale of each commit."""

    name: str
    scales: tuple[str, str]  # of the older commit, and of this code

    @classmethod
    def of(cls, text: str) -> "Recipe":
        """Read NAME:SCALE or NAME:OLD,NEW."""
        name, _, scales = text.partition(":")
        old, _, new = (scales or "cpu").partition(",")
        return cls(name, (old, new or old))


def main() -> None:
    """Read the command line, run, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the older commit")
    parser.add_argument("recipes", nargs="+", type=Recipe.of, metavar="NAME:SCALE", help="experiments and their scales")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="training seeds (default 0)")
    parser.add_argument("--kept", type=int, default=1, help="further runs with compiled programs kept (default 1)")
    parser.add_argument("--dir", type=Path, default=ROOT / "runs/recipes", help="where runs are made")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/recipes.json", help="results")
    args = parser.parse_args()
    whole = commits.resolve(args.commit, ROOT)
    rows: list[dict[str, Any]] = []
    with commits.laid_out(whole, ROOT) as older:
        for recipe in args.recipes:
            for seed in args.seeds:
                for times in range(1 + args.kept):
                    one = [
                        ran(recipe, side, tree, seed, times, args.dir / whole[:12])
                        for side, tree in enumerate((older, ROOT))
                    ]
                    rows += [
                        {"recipe": recipe.name, "seed": seed, "kept": times > 0, "what": what} | pair
                        for what, pair in paired(*one)
                    ]
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    found = {
                        "against": whole,
                        "provenance": provenance.collect(),
                        "load": os.getloadavg(),
                        "rows": rows,
                    }
                    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows))


def ran(recipe: Recipe, side: int, tree: Path, seed: int, times: int, folder: Path) -> dict[str, float]:
    """Return seconds and returns of a run of the code in `tree`, made unless it was finished before."""
    place = folder / f"{recipe.name}-{('old', 'new')[side]}-{seed}"
    run, cache, said = place / f"run-{times}", place / "cache", place / f"run-{times}.json"
    if not said.is_file():
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ad_jax", "run", recipe.name, "--scale", recipe.scales[side]]
        command += ["--dir", str(run), f"seed={seed}"]
        # A program kept anywhere else would make a first run a later one.
        own = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        own |= {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(cache)}
        began = time.perf_counter()
        subprocess.run(command, cwd=tree, env=own, check=True)
        said.write_text(json.dumps({"whole": time.perf_counter() - began}))
    stages = json.loads((run / "stages.json").read_text())
    found = {"whole, s": json.loads(said.read_text())["whole"]}
    found |= {f"{name}, s": stages[name]["seconds"] for name in ("collect", "distill", "evaluate")}
    found |= {f"{name}, compiling, s": stages[name]["compile_seconds"] for name in ("collect", "distill")}
    results = json.loads((run / "results.json").read_text())
    for one in results["runs"][0]["sets"]:
        returns = np.asarray(one["returns"]["sampled"])  # [tasks, lifetimes, episodes]
        found[f"return, {one['name']}, last tenth"] = float(returns[..., -max(1, returns.shape[-1] // 10) :].mean())
    return found


def paired(old: dict[str, float], new: dict[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Return for each figure both and their ratio."""
    for what, figure in new.items():
        yield what, {"old": old[what], "new": figure, "ratio": figure / old[what]}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the figures of every run, first runs before those with compiled programs kept."""
    lines = ["| run | seed | programs | what | old | new | new / old |", "|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: row["kept"]):
        kept = "kept" if row["kept"] else "none kept"
        lines.append(
            f"| {row['recipe']} | {row['seed']} | {kept} | {row['what']} | {row['old']:.4g} | {row['new']:.4g} "
            f"| {row['ratio']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
