"""The interval over training seeds and prompts: against the textbook's special cases, and by its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from selma.scoring.bootstrap import bootstrap_mean
from selma.scoring.seeds import over_seeds


def test_two_seeds_that_disagree_claim_nothing():
    """+10 and +30 on every prompt: t with one degree of freedom, not "20 [20, 20]"."""
    mean, low, high = over_seeds([[10.0] * 50, [30.0] * 50])
    half = stats.t.ppf(0.975, 1) * 10  # the standard error of the mean of 10 and 30 is 10
    assert (mean, low, high) == pytest.approx((20, 20 - half, 20 + half))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_without_differences_between_prompts_it_is_t_over_seeds(means):
    found = over_seeds([[mean] * 30 for mean in means])
    if np.ptp(means) < 1e-6:
        return
    low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    assert found == pytest.approx((np.mean(means), low, high), rel=1e-6, abs=1e-9)


def test_seeds_that_agree_leave_t_over_prompts():
    gains = np.random.default_rng(0).normal(0.02, 0.1, 40)
    low, high = stats.t.interval(0.95, 39, gains.mean(), stats.sem(gains))
    assert over_seeds([gains] * 4) == pytest.approx((gains.mean(), low, high))


def test_equal_gains_have_no_interval_and_too_few_are_refused():
    assert over_seeds([[0.5] * 3] * 2) == (0.5, 0.5, 0.5)
    for gains in ([], [[]], [[0.1, 0.2]], [[0.1], [0.2]]):
        with pytest.raises(ValueError, match="two seeds on two prompts"):
            over_seeds(gains)


@pytest.mark.parametrize("n_seeds", [3, 6])
def test_it_covers_the_truth_where_an_interval_over_prompts_does_not(n_seeds):
    """1,000 studies with the spread of this repository's own: seeds .9, prompts 5, the rest 12 points."""
    random = np.random.default_rng(1)
    ours = prompts_only = 0
    for _ in range(1000):
        gains = (
            1.5
            + random.normal(0, 0.9, (n_seeds, 1))
            + random.normal(0, 5, (1, 150))
            + random.normal(0, 12, (n_seeds, 150))
        )
        _, low, high = over_seeds(gains)
        ours += low <= 1.5 <= high
        _, low, high = bootstrap_mean(gains[0], resamples=100, seed=0)
        prompts_only += low <= 1.5 <= high
    assert ours >= 930, "95% of the intervals should hold the truth"
    assert prompts_only < ours
