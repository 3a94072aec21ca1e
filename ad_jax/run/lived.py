"""One history of a collection to look at: returns and lengths of its episodes, and the ways of some of them.

In: a collection, finished or not, and the number of a history. Out: lines for a terminal, and a figure.
"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ad_jax.envs import FAMILIES
from ad_jax.envs.base import TaskFamily, take
from ad_jax.envs.leaves import tasks_of
from ad_jax.errors import AdJaxError, ConfigError, HistoryError, cannot_write
from ad_jax.files import JsonObject
from ad_jax.history.lifetimes import episodes_of
from ad_jax.history.manifest import Manifest
from ad_jax.history.select import take as rows_of
from ad_jax.history.store import Url, open_store
from ad_jax.registry import make
from ad_jax.report.figures import BLUE, DPI, GRAY, STYLE
from ad_jax.report.ways import panel
from ad_jax.text import number
from ad_jax.types import Histories

BARS = " .:-=+*#%@"  # a return from the lowest to the highest, in a line of text
WIDTH = 60  # of such a line
SHOWN = 12  # steps of an episode in text


@dataclasses.dataclass(frozen=True)
class Lived:
    """A history, `[1, T]`, with its episodes.

    Attributes:
        number: of the history in its collection.
        histories: it alone.
        returns: `[E]` of its finished episodes.
        lengths: `[E]` steps of each.
        picked: numbers of the episodes that are shown.
        picture: how its task is drawn; None where nobody knows.
    """

    number: int
    histories: Histories
    returns: np.ndarray
    lengths: np.ndarray
    picked: tuple[int, ...]
    picture: JsonObject | None

    def lines(self) -> list[str]:
        """Return it in words."""
        h, steps = self.histories, self.histories.transition.reward.shape[1]
        shown = [f"history {self.number}: task {h.task_ids[0]}, seed {h.seed_index[0]}, actor {h.actor[0]}"]
        shown += [
            f"  {len(self.returns)} episodes end in {steps} steps; {steps - self.lengths.sum()} steps after the last"
        ]
        if not len(self.returns):
            return shown
        low, high = self.returns.min(), self.returns.max()
        parts = np.array_split(self.returns, min(WIDTH, len(self.returns)))
        level = [(part.mean() - low) / max(high - low, 1e-12) for part in parts]
        curve = "".join(BARS[round(x * (len(BARS) - 1))] for x in level)
        tenths = " ".join(
            number(float(part.mean())) for part in np.array_split(self.returns, min(10, len(self.returns)))
        )
        mean = float(self.lengths.mean())
        shown += [
            f"  return   |{curve}| from {number(float(low))} to {number(float(high))}",
            f"  by tenth {tenths}",
            f"  lengths  {self.lengths.min()} to {self.lengths.max()} steps, mean {number(mean)}",
        ]
        for episode in self.picked:
            points = self._points(episode)
            told = " ".join("(" + ",".join(f"{x:g}" for x in point) + ")" for point in points[:SHOWN])
            more = f" ... {len(points)} steps" if len(points) > SHOWN else ""
            shown.append(f"  episode {episode} earns {number(float(self.returns[episode]))}: {told}{more}")
        return shown

    def draw(self, out: str | Path) -> None:
        """Draw returns by episode, and the ways of those that are shown.

        Raises:
            ConfigError: if the file cannot be written.
        """
        with rc_context(STYLE):
            columns = max(1, len(self.picked))
            figure = Figure(figsize=(6.6, 4.4), layout="constrained")
            grid = figure.add_gridspec(2, columns, height_ratios=(1.3, 1))
            axes = figure.add_subplot(grid[0, :])
            episode, near = np.arange(len(self.returns)), max(1, len(self.returns) // 20)
            axes.plot(episode, self.returns, ".", ms=2.5, color=GRAY, alpha=0.5)
            if len(self.returns):
                padded = np.pad(self.returns.astype(float), (near // 2, near - 1 - near // 2), mode="edge")
                axes.plot(episode, np.convolve(padded, np.ones(near) / near, "valid"), color=BLUE, lw=1.6)
            axes.set(xlabel="episode", ylabel="return")
            axes.set_title(f"history {self.number}, task {self.histories.task_ids[0]}"[:80], parse_math=False)
            for place, shown in enumerate(self.picked):
                self._way(figure.add_subplot(grid[1, place]), shown)
            try:
                figure.savefig(out, dpi=DPI)
            except ValueError as error:
                raise ConfigError(f"{out} cannot be drawn: {error}. Name a .png, .svg or .pdf file") from error
            except OSError as error:
                raise cannot_write(out, error) from error

    def _way(self, axes, episode: int) -> None:
        points = self._points(episode)
        if self.picture is not None:
            panel(axes, self.picture, {"episode": episode, "return": float(self.returns[episode]), "points": points})
            return
        axes.plot(np.arange(len(points)), np.asarray(points)[:, :8], lw=1)
        axes.set_title(f"episode {episode}")
        axes.set_xlabel("step")

    def _points(self, episode: int) -> list[list[float]]:
        """Return what was seen in an episode, step by step."""
        end = int(self.lengths[: episode + 1].sum())
        seen = np.asarray(self.histories.transition.observation[0, end - self.lengths[episode] : end])
        return seen.reshape(len(seen), -1)[:, :8].tolist()


def look(url: Url, history: int, episodes: int) -> Lived:
    """Return a history of a collection.

    Args:
        url: of the collection.
        history: its number.
        episodes: how many of its episodes are shown, evenly spaced over its time.

    Raises:
        HistoryError: if there is no such history, or its chunk is damaged.
    """
    store = open_store(url, allow_partial=True)
    m, chunk = store.manifest, history // store.manifest.chunk_histories
    if not 0 <= history < m.histories or chunk not in store.chunks:
        raise HistoryError(f"history {history} is not there: {len(store.task_ids)} of {m.histories} are, from 0 on")
    one = rows_of(store.read([chunk]), np.array([history - m.rows(chunk)[0]]))
    found = episodes_of(one.transition.reward, one.transition.done)
    count = len(found.returns[0])
    picked = np.unique(np.linspace(0, count - 1, min(episodes, count)).round().astype(int)) if count else ()
    shown = tuple(map(int, picked))
    return Lived(history, one, found.returns[0], found.steps[0], shown, _picture(m, one))


def family_at(m: Manifest) -> TaskFamily | None:
    """Return the family of a collection's tasks; None where they are opaque, or it is not to be found here."""
    try:
        return make("env", m.family["name"], m.family.get("options", {}), FAMILIES, TaskFamily)
    except (AdJaxError, KeyError):
        return None


def _picture(m: Manifest, one: Histories) -> JsonObject | None:
    """Return how the task is drawn where what is seen is where one is: on a grid."""
    family = family_at(m)
    if family is None:
        return None
    picture = family.picture(take(tasks_of(family, one.tasks), 0))
    return picture if picture.get("kind") == "grid" else None
