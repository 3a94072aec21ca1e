"""The same worlds at a size at which they are learned in context, and audited like the small ones. Slow."""

import numpy as np
import pytest
from families import audit, audit_report, audit_shown
from families.costs import Errands
from families.early import WayOut
from families.floats import Balance
from families.running import ran, value_of
from families.vector import Courier

from ad_jax.report import report
from ad_jax.report.drawings import figures_of
from ad_jax.testing import check_env

# Least gain of the last tenth of episodes over the first, and least return there; seen: see each family's `config`.
LEARNED = {"early": (0.25, 0.8), "costs": (8.0, 30.0), "floats": (5.0, 26.0), "vector": (0.3, 1.7)}


@pytest.mark.slow
@pytest.mark.parametrize("family", [WayOut(), Errands(), Errands(prize=0.0), Balance(), Courier()], ids=repr)
def test_the_families_keep_the_contract(family):
    assert len(check_env(family)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_it_is_learned_in_context_and_reported_as_it_was(name, tmp_path):
    at = ran(name, tmp_path / "run", "cpu")
    n = audit_report.numbers([at.truth], "sampled")
    gain, least = LEARNED[name]
    assert n.final - n.first >= gain
    assert n.final >= least
    audit_report.check_results(at.results["runs"][0]["sets"][0], at.truth, at.known.actors)
    for row in at.stats["rows"]:
        audit_report.check_row(row, [at.truth])
        audit_report.check_shares(row, [at.truth], at.known)
    audit_report.check_source(at.stats["source"], [at.truth], at.known)
    audit_shown.check_summary(report.summary(at.results), [at.truth], at.known)
    audit_shown.check_table(report.table(at.results), [[at.truth]], [at.key])
    audit_shown.check_page((at.folder / "report/index.html").read_text(), report.statistics(at.results))
    audit_shown.check_figures(
        {stem: figure for stem, (figure, _) in figures_of(at.s, at.stats).items()}, [at.truth], at.known
    )
    audit_report.check_claims(value_of(at), [at.truth], at.known)
    if name == "early":  # what is learned there is to be quick
        lengths = np.array(audit.steps(at.truth.rollouts["sampled"]), float)
        assert audit.last_tenth(lengths).mean() <= 0.6 * lengths[..., 0].mean()
