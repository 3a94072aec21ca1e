"""Plain arrays in HDF5, with the names of `plain.py`: at the top of a file, or in groups of one history each.

Groups are read in natural order, "2" before "10", which is not the order in which HDF5 lists them. A group's `task_id`
may be an attribute.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.formats.base import Foreign, expand, library, natural
from ad_jax.formats.files_h5 import Arrays, opened, written
from ad_jax.formats.plain import ABOUT, Plain, about_text, columns_of
from ad_jax.history.store import HistoryStore


@dataclasses.dataclass(frozen=True)
class Hdf5(Plain):
    """Plain arrays in HDF5 files, one's own."""

    def open(self, paths: Sequence[Path]) -> Foreign:
        library("h5py")
        files = [file for path in paths for file in expand([path], "*.h*5")]
        blocks = []
        for path in files:
            root = opened(path)
            groups = sorted((n for n, item in root.items() if not hasattr(item, "dtype") and n != "task"), key=natural)
            inside = "reward" not in root and groups
            blocks += [Arrays(path, group) for group in groups] if inside else [Arrays(path)]
        return self.gather(blocks, files)

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write one file, `[H, T, ...]` by name, compressed by gzip: a chunk is in memory at a time."""
        m, text = store.manifest, library("h5py").string_dtype()
        with written(out) as file:
            for name, (shape, dtype) in m.fields.items():
                rows = (1, *shape) if shape else None
                file.create_dataset(
                    name, (m.histories, *shape), dtype, chunks=rows, compression="gzip" if rows else None
                )
            file.create_dataset("task_id", data=np.array(store.task_ids, object), dtype=text)
            file.attrs[ABOUT] = about_text(store)
            for chunk in store.chunks:
                first, end = m.rows(chunk)
                for name, x in columns_of(store, chunk, m.fields).items():
                    file[name][first:end] = x
