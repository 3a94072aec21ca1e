"""In which order the histories of a collection take turns on the devices: drawn once, from the seed."""

import jax
import numpy as np

from ad_jax.history.gathering import survey
from ad_jax.history.options import Config
from ad_jax.history.select import check_lengths
from ad_jax.history.store import HistoryStore
from ad_jax.keys import named_key


class Ring:
    """The order in which histories take turns.

    Attributes:
        shards: in order, the chunk of each and which of its histories.
        shard, row: of each place, the number of its shard and which of the shard's subsampled rows, `[N]` each.
        longest: steps of the longest subsampled history.
    """

    def __init__(self, store: HistoryStore, config: Config, seed: int):
        assert config.rotation is not None
        of_chunks, best = survey(store, config)
        first, kept, lengths = 0, {}, []
        for chunk, of_chunk in zip(store.chunks, of_chunks, strict=True):
            end = first + of_chunk.shape[1]
            kept[chunk], first = best[(best >= first) & (best < end)] - first, end
            lengths.append(of_chunk[:, kept[chunk]].reshape(-1))
        length = np.concatenate(lengths)
        check_lengths(length, config)
        self.longest, self.shards = int(length.max()), []
        spread = config.rotation.spread or -(-len(length) // config.rotation.resident)
        for lap in range(spread):
            order = np.asarray(jax.random.permutation(named_key(seed, "rotation", lap), len(store.chunks)))
            chunks = [store.chunks[place] for place in order]
            self.shards += [(chunk, kept[chunk][lap::spread]) for chunk in chunks if len(kept[chunk]) > lap]
        size = [config.phases * len(rows) for _, rows in self.shards]
        self.shard = np.repeat(np.arange(len(size)), size)
        self.row = np.concatenate([np.arange(count) for count in size])
