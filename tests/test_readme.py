"""README and docs hold: their code runs, their commands parse, their files exist, their numbers are those on file."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from helpers import LITTLE

import ad_jax
from ad_jax import Run, envs, load_experiment, methods, models, override, sources
from ad_jax.__main__ import main
from ad_jax.cli.parser import parse, parser
from ad_jax.experiment import Mixture, build, build_members, load_any, override_mixture
from ad_jax.registry import resolve
from ad_jax.report.report import load, statistics
from ad_jax.run.compress import student_of
from ad_jax.testing import check_plugin

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
FILES = {
    path.name
    for folder in ("ad_jax", "docs", "examples", "experiments", "tests")
    for path in (ROOT / folder).rglob("*.py")
}


def blocks(page: str, language: str) -> list[str]:
    """Return a page's fenced blocks of one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def script(path: str) -> ModuleType:
    """Return a script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(page: str) -> list[str]:
    """Indented lines and inline code of a page, without fenced blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    (.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    return [line.partition(" #")[0].strip() for line in lines]


COMMANDS = sorted({line for page in PAGES.values() for line in code(page) if line.startswith("ad-jax ")})
WHOLE = [c for c in COMMANDS if len(shlex.split(c)) > 2]  # not `ad-jax run` in a sentence


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return an empty working directory, from which the repository's examples can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 160


def test_the_readme_names_every_plug_in():
    names = [*envs.FAMILIES, *envs.OUTSIDE, *sources.SOURCES, *models.MODELS, *methods.METHODS]
    assert len(names) > 15
    assert not [name for name in names if f"`{name}`" not in PAGES["README.md"]]


def test_the_readmes_python_runs(elsewhere):
    """In an empty directory, as a reader would; what is written out is the experiment, what runs is its smoke scale."""
    written, acting = blocks("README.md", "python")
    assert len(written.splitlines()) <= 12
    names = {name: getattr(ad_jax, name) for name in ad_jax.__all__}
    experiment, call = written.split("\nRun(")
    exec(experiment, names)
    assert names["experiment"] == load_experiment("dark_room")
    names["experiment"] = override(load_experiment("dark_room", scale="smoke"), LITTLE)
    exec(f"Run({call}\n{acting}", names)
    assert (elsewhere / "runs/dark_room/mine/report/index.html").is_file()
    assert names["action"].shape == (2,)


def test_the_example_is_short_and_keeps_the_contract(elsewhere):
    assert len((ROOT / "examples/corridor.py").read_text().splitlines()) <= 80
    assert len(check_plugin("examples.corridor:Corridor")) > 10


def example():
    """Return the README's command for its example, as an experiment."""
    command = next(c for c in WHOLE if c.startswith("ad-jax run") and "corridor" in c)
    args = parse(shlex.split(command)[1:])
    return override(load_experiment(str(ROOT / args.experiment), args.scale), args.overrides)


@pytest.mark.slow
def test_the_example_runs_in_an_experiment(elsewhere):
    """With a training that learns nothing."""
    less = [*LITTLE, "model.width=16", "replay.batch=8", "distill.updates=4", "distill.warmup_updates=1"]
    less += ["collect.seeds=1", "collect.chunk_learners=39", "evaluate.episodes=2", "evaluate.seeds=1"]
    page = Run(override(example(), less)).all()
    assert page.is_file()


@pytest.mark.slow
def test_the_example_learns(elsewhere):
    """What a reader with an own environment runs first: near the optimum on cells it was never trained on."""
    run = Run(example())
    run.all()
    (held_out,) = statistics(load([run.folder / "results.json"]))["sets"].values()
    last = held_out["rows"][-1]["sampled"]
    assert held_out["tasks"] == 10
    assert last["first"] < 0.3 * held_out["optimal"]
    assert last["final"] > 0.85 * held_out["optimal"]


@pytest.mark.parametrize("command", WHOLE)
def test_commands_parse_and_their_overrides_are_accepted(command, elsewhere):
    if command.endswith("--help"):
        with pytest.raises(SystemExit) as stop:
            parse(shlex.split(command)[1:])
        assert not stop.value.code
        return
    args = parse(shlex.split(command)[1:])
    if args.command == "compress":
        build(student_of(load_experiment("dark_room"), args.run, args.to, args.overrides))
    elif hasattr(args, "overrides"):
        file = ROOT / args.experiment
        found = load_any(str(file) if file.is_file() else args.experiment, args.scale)
        if isinstance(found, Mixture):
            build_members(override_mixture(found, args.overrides))
        else:
            build(override(found, args.overrides))


def test_every_subcommand_is_shown_and_every_one_shown_exists():
    commands = next(a.choices for a in parser()._actions if a.dest == "command")
    assert commands
    shown = {shlex.split(line)[1] for line in COMMANDS}
    assert shown == set(commands)


def test_console_blocks_show_what_is_printed(elsewhere, capsys):
    (session,) = blocks("docs/reliability.md", "console")
    command, *expected = session.splitlines()
    assert main(shlex.split(command)[2:]) == 2
    assert capsys.readouterr().err.splitlines() == expected


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in code(PAGES[page]) if re.match(r"make [a-z]", line)}
    assert named <= targets
    assert page != "README.md" or {"demo", "test"} <= named


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page])
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing


PLUGIN_PAGES = [*(f"envs/{name}.md" for name in envs.FAMILIES), *(f"sources/{name}.md" for name in sources.SOURCES)]


@pytest.mark.parametrize("name", PLUGIN_PAGES)
def test_every_registered_family_and_source_has_a_page_with_a_picture(name):
    """Its links lead somewhere, its tests exist, and the picture is a small one."""
    page, folder = (ROOT / "docs" / name).read_text(), (ROOT / "docs" / name).parent
    pictures = re.findall(r"!\[[^\]]{20,}\]\((\w+\.png)\)", page)
    assert Path(name).with_suffix(".png").name in pictures, "a picture of its own, with words for who cannot see it"
    assert all((folder / picture).read_bytes()[:4] == b"\x89PNG" for picture in pictures)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page) if "://" not in link]
    assert not [link for link in links if not (folder / link).exists()]
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [test for test in re.findall(r"`(test_\w+)`", page) if f"def {test}(" not in tests]
    for command in re.findall(r"^    (ad-jax .+)$", page, re.MULTILINE):
        parse(shlex.split(command)[1:])


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_sources_page_names_every_option(name):
    page = (ROOT / "docs/sources" / f"{name}.md").read_text()
    options = dataclasses.fields(resolve("source", name, sources.SOURCES))
    assert not [option.name for option in options if f"`{option.name}`" not in page]


def test_the_tree_lists_every_file_of_the_package():
    page, tree = PAGES["docs/tree.md"], script("docs/tree.py")

    def files(text):
        return re.findall(r"^## (\S+)/$|^- `(\S+\.py)`", text, re.MULTILINE)

    assert len(files(page)) > 100
    assert files(page) == files(tree.written(page)), "run: python docs/tree.py --write"


def test_the_tables_of_results_are_those_of_the_files():
    tables, names = script("experiments/tables.py"), []
    for page, text in PAGES.items():
        names += re.findall(r"<!-- results:(\w+) -->", text)
        assert tables.written(ROOT / page) == text, "run: python experiments/tables.py --write"
    assert sorted(names) == ["all", "claims", "counted", "counted", "dark_room", "speed", "worlds"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_commands_and_sentences_name_exist(page):
    """A path from the root, inside the package (`envs/base.py`) or beside the page; a bare name anywhere."""
    found = {file for line in code(PAGES[page]) for file in re.findall(r"(?<![\w/>])\w[\w/]*\.(?:py|sh|yaml)\b", line)}
    places = (ROOT, ROOT / "ad_jax", (ROOT / page).parent)
    assert not [file for file in found if "/" in file and not any((place / file).exists() for place in places)]
    assert {file for file in found if "/" not in file} <= FILES


def test_tests_named_by_the_design_exist():
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGES["docs/design.md"])
    assert len(named) > 40
    assert not [name for name in named if f"def {name}(" not in tests]
