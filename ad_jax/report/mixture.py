"""The page of a mixture: one model, a curve for every family, and a table of all of them.

In: the results of each member, as `report.load` gives them. Out: `index.html`, which embeds its images; each member's
own page lies beside it in the run directory, and is linked. Imports no JAX.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ad_jax.errors import ReportError
from ad_jax.files import JsonObject, read_json, write_whole
from ad_jax.report import figures, page, report
from ad_jax.report.drawings import figures_of
from ad_jax.report.results import gather
from ad_jax.report.statistics import statistics
from ad_jax.text import aligned, number

HEAD = ("family", "set", "tasks", "episode 1", "last 10 %", "95 % interval", "optimal", "source's gain")


def is_mixture(path: Path) -> bool:
    """Whether a path is the run directory of a mixture."""
    return (path / "members").is_dir()


def name_of(folder: Path) -> str:
    """Return what the mixture of a run directory is called."""
    return str(read_json(folder / "config.json").get("name", folder.name))


def load(folders: Sequence[Path]) -> dict[str, JsonObject]:
    """Return the results of each member of one or several runs of a mixture, pooled over their seeds.

    Raises:
        ReportError: if a run has other members, or as `report.load`.
    """
    for folder in folders:
        if not is_mixture(folder):
            raise ReportError(f"{folder} is no run of a mixture, and others here are; report each by itself")
    names = {
        folder: sorted(path.parent.name for path in (folder / "members").glob("*/results.json")) for folder in folders
    }
    first = folders[0]
    for folder, found in names.items():
        if found != names[first]:
            raise ReportError(f"{folder} has the members {', '.join(found)}; {first} has {', '.join(names[first])}")
    return {name: report.load([folder / "members" / name for folder in folders]) for name in names[first]}


def rows_of(results: Mapping[str, JsonObject]) -> list[tuple[str, ...]]:
    """Return a row for each set of tasks of each family, under `HEAD`."""
    rows = []
    for name, of_member in results.items():
        for which, stats in statistics(of_member)["sets"].items():
            everything, size = stats["rows"][-1], page.scale(stats)
            mode = next(m for m in ("sampled", "greedy") if m in everything)
            one = everything[mode]
            best = "-" if stats["optimal"] is None else number(stats["optimal"], size)
            numbers = number(one["first"], size), number(one["final"], size), page.interval(one, size)
            rows.append((name, which.replace("_", "-"), str(stats["tasks"]), *numbers, best, page.share(one)))
    return rows


def table(results: Mapping[str, JsonObject]) -> str:
    """Plain text for a terminal."""
    return "\n".join("  ".join(row).rstrip() for row in aligned([HEAD, *rows_of(results)]))


def write(name: str, results: Mapping[str, JsonObject], folder: Path) -> Path:
    """Draw the curve of every family and the page into `folder`, the page last.

    Args:
        name: of the mixture.
        results: of each member, by name.
        folder: of the page and the figures.

    Returns:
        The path of `index.html`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    families = []
    for member, of_member in results.items():
        stats, first = statistics(of_member), gather(of_member)[0]
        figure, caption = figures_of(first, stats["sets"][first.name])["curve"]
        image = None if figure is None else figures.png(figure)
        if image is not None:
            write_whole(folder / f"curve-{member}.png", image)
        shown = page.section(first.name, stats["sets"][first.name], [("curve", image, caption)])
        fitted = "trained_as" not in of_member["runs"][0]["checkpoint"]  # by itself, and not as a part of the mixture
        note = "The trunk was not trained on this family: only its own layers were fitted to it." * fitted
        beside = Path("members", member, "report", "index.html")
        link = f"../{beside}" if (folder.parent / beside).exists() else None
        families.append(
            {"name": member, "note": note, "link": link, "title": shown["title"], "figure": shown["figures"][0]}
        )
    content = page.fill("mixture.html", width="860px", name=name, head=HEAD, rows=rows_of(results), families=families)
    write_whole(folder / "index.html", content)
    return folder / "index.html"
