"""What several senders get of one engine in virtual time."""

from __future__ import annotations

import pytest

from loadtest.simulation.profiles import load_profile
from loadtest.simulation.shares import ATTACKS, Attack, attack, markdown

SECONDS = 60.0


@pytest.mark.parametrize("how", ATTACKS, ids=lambda how: how.name)
@pytest.mark.parametrize("profile", ["bccd", "cpu-lite"])
def test_a_victim_is_served_beside_any_of_them(profile: str, how: Attack):
    result = attack(load_profile(profile), how, SECONDS, seed=1)
    victim, _ = result.shared
    assert victim.num_requests > SECONDS / 2
    assert victim.share_in_time >= 0.95
    lines = list(markdown([result]))
    assert how.name in lines[-1]
    assert profile in lines[-1]


def test_without_shares_it_is_not():
    """Else the ones above would say nothing."""
    worst = min(
        attack(load_profile("bccd"), how, SECONDS, seed=1).unshared[0].share_in_time
        for how in ATTACKS
    )
    assert worst < 0.5
