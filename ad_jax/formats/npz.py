"""Plain arrays in NumPy's `.npz`, with the names of `plain.py`: one file of many histories, or one file each.

    np.savez("log.npz", observation=o, action=a, reward=r, done=d, task_id=machines)      # o [H, T, 6], a r d [H, T]
    ad-jax histories import npz log.npz --out runs/mine

Whole numbers are stored in the narrowest dtype that holds them, real ones as float32. Python objects are refused.
"""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ad_jax.formats.base import Foreign, expand
from ad_jax.formats.plain import ABOUT, Plain, about_text, columns_of
from ad_jax.formats.zipped import Zipped
from ad_jax.history.store import HistoryStore


@dataclasses.dataclass(frozen=True)
class Npz(Plain):
    """Plain arrays in `.npz` files, one's own."""

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = expand(paths, "*.npz")
        return self.gather([Zipped(path) for path in files], files)

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write one file, `[H, T, ...]` by name, an array after another: a chunk of one is in memory at a time."""
        m = store.manifest
        fresh = out.with_name(f".{out.name}.tmp")
        dtypes = {name: dtype for name, (_, dtype) in m.fields.items()}
        dtypes |= {"task_id": np.dtype(f"U{max(1, *map(len, store.task_ids))}")}
        shapes = {name: shape for name, (shape, _) in m.fields.items()} | {"task_id": ()}
        try:
            with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
                for name, dtype in dtypes.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False}
                        npy.write_array_header_1_0(file, head | {"shape": (m.histories, *shapes[name])})
                        for chunk in store.chunks:
                            file.write(np.ascontiguousarray(columns_of(store, chunk, [name])[name]).tobytes())
                with archive.open(f"{ABOUT}.npy", "w") as file:
                    npy.write_array(file, np.array(about_text(store)))
            fresh.replace(out)
        finally:
            fresh.unlink(missing_ok=True)
