"""Results and evaluation parts are sealed: what was changed since they were written is refused, not reported."""

import json
import random
import re

import pytest
from report_helpers import grid_set, results, save

from ad_jax.report import report
from ad_jax.report.report import ReportError


def pooled(folder, data):
    """Return `data` as a file that the package wrote."""
    report.pool(data, folder / "results.json")
    return folder / "results.json"


def test_no_single_flipped_bit_changes_a_number_unseen(tmp_path):
    file = pooled(tmp_path, results(seeds=(0, 1)))
    content, expected = file.read_bytes(), report.load([file])
    draw, refused = random.Random(0), 0
    for _ in range(200):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        try:
            found = report.load([file])
        except ReportError:
            refused += 1
        else:
            assert found == expected, f"bit {bit} of byte {place}"
    assert refused > 190  # the others fall on a name that nobody reads


def test_a_number_that_was_changed_by_hand_is_refused_with_the_remedy(tmp_path):
    file = pooled(tmp_path, results())
    data = json.loads(file.read_text())
    data["runs"][0]["sets"][0]["returns"]["sampled"][0][0][3] = 1e6
    save(file, data)
    with pytest.raises(ReportError, match=r"results\.json: field 'seal': .*evaluate again"):
        report.load([file])


def test_another_order_of_names_or_other_spaces_are_no_damage(tmp_path):
    file = pooled(tmp_path, results())
    data = json.loads(file.read_text())
    save(file, json.dumps(dict(reversed(data.items())), indent=3))
    assert report.load([file]) == results()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step", -7, "runs[0].checkpoint.step: expected float >= 0.0, received -7"),
        ("optimal", -3, "tasks[0].optimal: expected at least 'random', which is 0.2; received -3"),
    ],
)
def test_values_that_cannot_be_are_refused_also_where_they_are_sealed(tmp_path, field, value, message):
    data = results()
    run = data["runs"][0]
    (run["checkpoint"] if field == "step" else run["sets"][0]["tasks"][0])[field] = value
    with pytest.raises(ReportError, match=re.escape(message)):
        report.load([pooled(tmp_path, data)])


def two(tmp_path, change):
    """Two runs of one experiment, with seeds 0 and 1; the second is changed."""
    first, second = results(grid_set()), results(grid_set(), seeds=(1,))
    for data, seed in ((first, 0), (second, 1)):
        data["runs"][0]["config"] = {
            "name": "dark_room",
            "seed": seed,
            "env": {"name": "dark_room", "options": {"size": 9}},
            "collect": {"episodes": 400, "chunk_learners": 256},
            "evaluate": {"temperature": None},
        }
    change(second["runs"][0])
    return [save(tmp_path / "a" / "results.json", first), save(tmp_path / "b" / "results.json", second)]


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(tmp_path):
    """Of two worlds, say: the mean of two optima is an optimum of neither."""
    changes = {
        "env.options.size (9 there, 17 here)": lambda run: run["config"]["env"]["options"].update(size=17),
        "env.options.reward (None there, 'once' here)": lambda run: run["config"]["env"]["options"].update(
            reward="once"
        ),
        "collect.episodes (400 there, 40 here)": lambda run: run["config"]["collect"].update(episodes=40),
        "evaluate.temperature (None there, 0.5 here)": lambda run: run["config"]["evaluate"].update(temperature=0.5),
        "checkpoint.step: expected 1000": lambda run: run["checkpoint"].update(step=10),
    }
    for message, change in changes.items():
        with pytest.raises(ReportError, match=re.escape(message)) as caught:
            report.load(two(tmp_path, change))
        assert str(tmp_path / "b") in str(caught.value)


def test_runs_that_were_only_computed_otherwise_are_averaged(tmp_path):
    """Another size of chunks, and a field that the older version did not know."""

    def change(run):
        run["config"]["collect"]["chunk_learners"] = 8
        run["config"]["evaluate"]["new"] = 1

    assert [run["seed"] for run in report.load(two(tmp_path, change))["runs"]] == [0, 1]
