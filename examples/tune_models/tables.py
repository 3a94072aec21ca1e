"""Make `tables.npz`: the true scores of 144 settings of a kernel classifier on random cuts of real data sets.

    pip install "ad-jax[examples]"                      # scikit-learn; from a clone: pip install ".[examples]"
    python examples/tune_models/tables.py               # a few minutes; interrupted, it goes on where it was

A cut is a task: some columns and some labels of one of scikit-learn's bundled data sets, 30 to 150 rows to train on, up
to 300 others to score, wrong labels and noise in the columns of a share that is the cut's own. Nothing is downloaded.
Every cut has its own random numbers, of its data set and number, so any of them can be made again alone.

The model is kernel ridge regression onto 1 for a row's label and -1 for the others; the largest output is the answer.
Its settings are the ridge and the width of its kernel. It is scikit-learn's `KernelRidge(alpha, kernel="rbf",
gamma=gamma)` to rounding, but one eigendecomposition serves every ridge, which is forty times as fast.

The score is the share of the validation rows that are right, above that of always giving their commonest label, so
that 0 is no better than that and 1 is no error: what a user knows, too, who does not know the best setting.
"""

import argparse
import os
import time
import zlib
from pathlib import Path

import numpy as np
from sklearn import datasets  # pyright: ignore[reportMissingImports]

NAMES = ("iris", "wine", "breast_cancer", "digits", "diabetes")
RIDGE, GAMMA = np.logspace(-4, 2, 12), np.logspace(-4, 1, 12)  # the grid: setting 12 i + j is RIDGE[i], GAMMA[j]
TABLES = Path(__file__).with_name("tables.npz")


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a data set's rows `[n, columns]`, each column of mean 0 and variance 1, and labels `[n]`."""
    rows, target = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":  # a number, how far the disease went on in a year: in thirds
        target = np.digitize(target, np.quantile(target, (1 / 3, 2 / 3)))
    rows = rows[:, rows.std(0) > 0]
    return (rows - rows.mean(0)) / rows.std(0), target


def cut(name: str, number: int, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return a cut of a data set: rows and labels to train on, rows and labels to score."""
    rng = np.random.default_rng((zlib.crc32(name.encode()), number))
    kept = rng.permutation(np.unique(labels))[: rng.integers(2, len(np.unique(labels)) + 1)]
    places = rng.permutation(np.flatnonzero(np.isin(labels, kept)))
    train = min(rng.integers(30, 151), len(places) // 2)
    columns = rng.permutation(rows.shape[1])[: int(np.exp(rng.uniform(np.log(2), np.log(rows.shape[1] + 1))))]
    x, y = rows[places[: train + 300]][:, columns], labels[places[: train + 300]]
    x = x + rng.uniform(0, 1) * rng.normal(size=x.shape)
    wrong = rng.random(train) < rng.uniform(0, 0.3)
    taught = np.where(wrong, rng.choice(kept, train), y[:train])
    taught[: len(kept)] = kept  # no label is missing
    return x[:train], taught, x[train:], y[train:]


def scores(x: np.ndarray, taught: np.ndarray, unseen: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the score of every setting on a cut, `[144]`."""
    names, commonest = np.unique(taught), np.unique(labels, return_counts=True)[1].max() / len(labels)
    wanted = np.where(taught[:, None] == names, 1.0, -1.0)

    def apart(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    inside, across, right = apart(x, x), apart(unseen, x), np.empty((len(RIDGE), len(GAMMA)))
    for j, gamma in enumerate(GAMMA):
        sizes, vectors = np.linalg.eigh(np.exp(-gamma * inside))
        seen, part = np.exp(-gamma * across) @ vectors, vectors.T @ wanted
        for i, ridge in enumerate(RIDGE):
            answer = names[(seen @ (part / (sizes + ridge)[:, None])).argmax(1)]
            right[i, j] = (answer == labels).mean()
    return ((right - commonest) / (1 - commonest)).reshape(-1)


def make(path: Path, cuts: int, seconds: float = 10.0) -> None:
    """Bring the file at `path` to `cuts` tables of each data set, saving every so many seconds."""
    done = dict(np.load(path)) if path.exists() else {}
    begun = time.monotonic()
    for name in NAMES:
        rows, labels = load(name)
        table = list(done.get(name, ()))
        while len(table) < cuts:
            table.append(scores(*cut(name, len(table), rows, labels)).astype(np.float16))
            if len(table) == cuts or time.monotonic() - begun > seconds:
                begun = time.monotonic()
                done[name] = np.array(table)
                np.savez_compressed(part := path.with_suffix(".part.npz"), **done)  # pyright: ignore[reportArgumentType]
                os.replace(part, path)
                print(f"{name}: {len(table)} of {cuts} cuts", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200, help="tables of each data set")
    parser.add_argument("--out", type=Path, default=TABLES)
    asked = parser.parse_args()
    make(asked.out, asked.cuts)
