"""What an update of a mixture is fed: a batch of every member, each from that member's own histories.

In: the feed of each member, and what lies on the devices of each. Out: the same contract for all of them together, so
that the one training loop knows of no mixture.
"""

import math
from collections.abc import Mapping

import jax

from ad_jax.history.replay import Residents
from ad_jax.models.together import key_of
from ad_jax.stage.feeds import Windows
from ad_jax.types import Batch, PyTree


class MixedWindows:
    """Batches of windows of all members, by name."""

    tasks = None

    def __init__(self, feeds: Mapping[str, Windows]):
        self.feeds = feeds

    def _key(self, key: jax.Array, name: str) -> jax.Array:
        return key_of(key, name, len(self.feeds))

    def draw(self, resident: PyTree, key: jax.Array) -> tuple[dict[str, tuple[Batch, jax.Array]], jax.Array]:
        """Return each member's batch with the key of its model, and the key that is left. The key is consumed."""
        return {name: feed.draw(resident[name], self._key(key, name)) for name, feed in self.feeds.items()}, key

    def told(self, resident: PyTree, key: jax.Array) -> str:
        """Return the first of each member's histories."""
        each = (f"{name}{feed.told(resident[name], self._key(key, name))}" for name, feed in self.feeds.items())
        return f" ({'; '.join(each)})"


class FittingWindows(Windows):
    """Batches of one family whose layers are fitted to a trunk; that is what `Learner.init` is given."""

    def __init__(self, feed: Windows, trunk: PyTree):
        vars(self).update(vars(feed))
        self.tasks = trunk


class MixedResidents:
    """What lies on the devices of all members, by name. Swaps of any of them come between updates."""

    def __init__(self, members: Mapping[str, Residents]):
        self.members = members

    @property
    def period(self) -> int:
        """Updates after which those of some member may change: what divides all of their periods; 0 is never."""
        return math.gcd(*(residents.period for residents in self.members.values()))

    def at(self, step: int) -> dict[str, PyTree]:
        """Return the residents of the update after `step`."""
        return {name: residents.at(step) for name, residents in self.members.items()}

    def facts(self) -> dict[str, float]:
        """Return what was waited for in all."""
        total: dict[str, float] = {}
        for residents in self.members.values():
            for name, value in residents.facts().items():
                total[name] = total.get(name, 0) + value
        return total
