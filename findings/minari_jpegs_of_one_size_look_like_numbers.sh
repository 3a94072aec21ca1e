#!/usr/bin/env bash
# minari: pictures that compress to one size are stored as if each were a vector of that many numbers.
#
# Expectation  how an episode's pictures lie in main_data.hdf5 follows from the dataset alone: with jpeg_encoding, the
#              default, a JPEG a frame, in a form that cannot be taken for an array of observations.
# Behavior     where the JPEGs of an episode differ in length, observations are bytes of variable length, dtype object;
#              where all are of one length, as those of a picture that stands still are, they are uint8 [steps + 1,
#              bytes]: what a space of so many numbers would be, too. Two episodes of one dataset may differ in it.
# Why it is    who reads the file by h5py and looks at dtypes learns from the bytes of JPEGs. What tells is the space in
# worth it     metadata.json, whose shape is another.
# Version      minari 0.5.4, h5py 3.16.0, Python 3.11, Linux x86-64.
# Source       minari/dataset/_storages/hdf5_storage.py, _add_episode_to_group: `dt = None` unless lengths differ.
# Seen         still: uint8 (4, 663); moving: object (4,); the space says (40, 40, 3)
#
# Exits 0 only while it holds.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check 'minari[hdf5]==0.5.4' h5py==3.16.0 pillow

"$place/venv/bin/python" - "$place" <<'PYTHON'
import pathlib
import sys

import h5py
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

shape, folder = (40, 40, 3), pathlib.Path(sys.argv[1]) / "data"
storage = MinariStorage.new(folder, spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2))
still = np.zeros((4, *shape), np.uint8)
moving = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
none = {"terminations": np.zeros(3, bool), "truncations": np.zeros(3, bool)}
storage.update_episodes(
    EpisodeBuffer(observations=seen, actions=np.zeros(3, int), rewards=np.zeros(3), **none) for seen in (still, moving)
)
with h5py.File(folder / "main_data.hdf5") as file:
    found = [file[f"episode_{i}/observations"] for i in range(2)]
    told = [f"{x.dtype} {x.shape}" for x in found]
    print(f"still: {told[0]}; moving: {told[1]}; the space says {shape}")
    raise SystemExit(0 if found[0].dtype == np.uint8 and found[0].ndim == 2 and found[1].dtype == object else 1)
PYTHON
