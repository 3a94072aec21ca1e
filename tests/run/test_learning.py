"""The claim of the main experiment, run whole. Slow: minutes."""

import json

import numpy as np
import pytest

from ad_jax import Run, load_experiment


@pytest.mark.slow
def test_dark_room_is_learned_in_context_on_held_out_goals(tmp_path):
    """Episode 1 below 2; episode 12 at least 12; 91 to 100 at least 15.5 of 16.9; far above the source at those steps.

    The means over three seeds are above 12.7 and 16.2; one seed is given some room.
    """
    run = Run(load_experiment("dark_room"), tmp_path / "run")
    run.all()
    (held_out,) = json.loads((tmp_path / "run" / "results.json").read_text())["runs"][0]["sets"]
    returns = np.array(held_out["returns"]["sampled"]).mean((0, 1))
    assert returns[0] < 2
    assert returns[10:13].mean() >= 12
    assert returns[90:].mean() >= 15.5
    source = np.array(held_out["source"]["returns"])[:, :, 90:100].mean()
    assert returns[90:].mean() > 2 * source
