"""What a stage tells while it works: JSON lines always, TensorBoard and W&B by one option each, and progress lines.

A metrics file holds one JSON object a line, `{"stage", "step", ...numbers}`. On resume, what was logged past the step
that training goes on from is dropped, so that a resumed file reads like an uninterrupted one. Of several processes the
first one tells; what all train and evaluate together is the same on each.
"""

import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ad_jax.errors import ConfigError, cannot_write
from ad_jax.files import Json, write_whole
from ad_jax.process import distributed, terminal
from ad_jax.text import short


@dataclasses.dataclass(frozen=True)
class Config:
    """Where metrics go besides `metrics.jsonl`."""

    tensorboard: bool = False  # event files under the run directory; needs the extra `ad_jax[tensorboard]`
    wandb: str | None = None  # a W&B project; needs the extra `ad_jax[wandb]`
    progress_seconds: float = 5.0  # at most one progress line in this time

    def validate(self) -> None:
        """Raise ConfigError if the package of a sink is not installed."""
        for package, setting, wanted in (
            ("tensorboard", "logging.tensorboard=True", self.tensorboard),
            ("wandb", "logging.wandb", self.wandb is not None),
        ):
            try:
                importlib.import_module(package) if wanted else None
            except ImportError as error:
                raise ConfigError(f"{setting} needs {package}: pip install 'ad_jax[{package}]'") from error


class MetricsLog:
    """Appends records to `folder/metrics.jsonl` and to the sinks that are switched on.

    Raises:
        ConfigError: if a sink's package is not installed.
    """

    def __init__(self, folder: Path, config: Config, name: str = "ad_jax"):
        config.validate()
        self.path = folder / "metrics.jsonl"
        self.tells = distributed.is_first()
        self.sinks: list[Callable[[str, int, Mapping[str, float]], None]] = []
        if config.tensorboard and self.tells:
            self.sinks.append(_tensorboard(folder / "tensorboard"))
        if config.wandb is not None and self.tells:
            self.sinks.append(_wandb(folder, config.wandb, name))

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One record; `step` is in the stage's own unit (updates, chunks, episodes)."""
        if not self.tells:
            return
        try:
            with self.path.open("a") as file:
                file.write(_line(stage, step, values) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._tell_sinks(stage, step, values)

    def forget_after(self, stage: str, step: int) -> None:
        """Drop the stage's records past `step`, and a last line that a killed process left unfinished."""
        if not self.tells or not self.path.exists():
            return
        self._rewrite([line for line in self.path.read_text().splitlines() if _keeps(line, stage, step)])

    def complete(self, stage: str, records: Mapping[int, Mapping[str, float]]) -> None:
        """Make `records`, by step from 0 on, the stage's; the sinks are told those that were missing."""
        if not self.tells:
            return
        before = self.path.read_text().splitlines() if self.path.exists() else []
        others = [_keeps(line, stage, -1) for line in before]
        at = others.index(False) if False in others else len(before)
        kept = [line for line, other in zip(before, others, strict=True) if other]
        lines = {step: _line(stage, step, values) for step, values in records.items()}
        after = [*kept[:at], *lines.values(), *kept[at:]]
        if after != before:
            self._rewrite(after)
        told = {where[1] for line, other in zip(before, others, strict=True) if not other and (where := _where(line))}
        for step in sorted(records.keys() - told):
            self._tell_sinks(stage, step, records[step])

    def _rewrite(self, lines: list[str]) -> None:
        write_whole(self.path, "".join(line + "\n" for line in lines).encode())

    def _tell_sinks(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink(stage, step, {name: float(value) for name, value in values.items()})


class Progress:
    """Progress of one stage: done of total, rate, ETA, what the caller adds. Compile time is not in the rate.

    A line every few seconds, or a bar on a terminal; a line at the end.
    """

    def __init__(self, stage: str, total: int, unit: str, done: int = 0, seconds: float = 5.0, scale: float = 1):
        self.stage, self.total, self.unit, self.scale = stage, total, unit, scale
        self.first = self.done = done
        self.seconds, self.started, self.printed = seconds, time.monotonic(), time.monotonic()

    def note(self, text: str) -> None:
        """Print a line at once, and restart the clock: what came before is not part of the rate."""
        log(f"{self.stage:9}{text}")
        self.started, self.first = time.monotonic(), self.done

    def update(self, done: int, **facts: float | str) -> None:
        """Record that `done` units of `total` are finished; tells at most every few seconds, and at the end."""
        self.done, now, watched = done, time.monotonic(), done < self.total and terminal.is_ours()
        if done < self.total and now - self.printed < (0.1 if watched else self.seconds):
            return
        self.printed = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = (self.total - done) / rate if rate > 0 else float("inf")
        clock = "" if done >= self.total or left == float("inf") else f"  eta {int(left // 60)}:{int(left % 60):02d}"
        extra = "".join(f"  {name.replace('_', ' ')} {short(value)}" for name, value in facts.items())
        text = f"{done}/{self.total} {self.unit}  {short(rate * self.scale)} steps/s{extra}{clock}"
        if watched:
            terminal.draw(self.stage, done, self.total, text)
        else:
            terminal.clear()
            log(f"{self.stage:9}{text}")


def log(text: str) -> None:
    """One line on the terminal, at once; of several processes, the first one's."""
    if distributed.is_first():
        print(text, file=sys.stdout, flush=True)


def _line(stage: str, step: int, values: Mapping[str, float]) -> str:
    return json.dumps({"stage": stage, "step": step, **{name: float(value) for name, value in values.items()}})


def _where(line: str) -> tuple[Json, int] | None:
    """Stage and step of a line; None for one that a kill cut, or that is none of ours."""
    try:
        record = json.loads(line)
        return record["stage"], int(record["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _keeps(line: str, stage: str, step: int) -> bool:
    found = _where(line)
    return found is not None and (found[0] != stage or found[1] <= step)


def _tensorboard(folder: Path) -> Callable[[str, int, Mapping[str, float]], None]:
    from tensorboard.compat.proto import event_pb2, summary_pb2  # pyright: ignore[reportMissingImports]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # pyright: ignore[reportMissingImports]

    writer = EventFileWriter(str(folder))

    def sink(stage, step, values):
        summary = [summary_pb2.Summary.Value(tag=f"{stage}/{name}", simple_value=v) for name, v in values.items()]
        writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=summary)))
        writer.flush()

    return sink


def _wandb(folder: Path, project: str, name: str) -> Callable[[str, int, Mapping[str, float]], None]:
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(project=project, name=name, dir=str(folder), resume="allow", id=f"{name}-{folder.name}")
    return lambda stage, step, values: run.log(
        {f"{stage}/{key}": v for key, v in values.items()} | {f"{stage}/step": step}
    )
