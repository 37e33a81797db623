import json
import math
from dataclasses import replace

import pytest

from autoprune.core.budget import Budget
from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.device import Measurement
from autoprune.core.trial import Trial
from autoprune.study.result import measured as told_to_people
from autoprune.study.verify import (
    Verification,
    holds,
    measure_network_until_decided,
    measure_until_decided,
    ranked,
)

BUDGET = Budget(latency_ms=5.0, macs=100)


def measurement(ratio, half=0.01, key="a"):
    return Measurement(
        key,
        latency_ms=ratio * 12.0,
        latency_interval_ms=((ratio - half) * 12.0, (ratio + half) * 12.0),
        ratio=ratio,
        ratio_interval=(ratio - half, ratio + half),
        samples_ms=(1.0, 2.0),
        reference_ms=(12.0, 12.0),
        stopped="interval",
    )


def predicted(macs=90.0):
    return Cost({"latency_ms": Estimate(4.0, 0.2, "table"), "macs": Estimate(macs)})


def test_latency_is_the_ratio_times_the_fixed_reference():
    found = Verification(measurement(0.45), reference_ms=10.0)
    assert found.latency_ms == pytest.approx(4.5)
    assert found.interval_ms == pytest.approx((4.4, 4.6))
    cost = found.cost(predicted())
    assert cost.latency_ms == pytest.approx(4.5)
    assert cost.estimates["latency_ms"].source == "measured"
    assert cost.estimates["latency_ms"].std == pytest.approx(0.1 / 1.959964)
    assert cost.macs == 90.0


def test_the_upper_bound_decides():
    assert holds(Verification(measurement(0.48), 10.0).violations(BUDGET, predicted()))
    over = Verification(measurement(0.495), 10.0).violations(BUDGET, predicted())
    assert over["latency_ms"] == pytest.approx(0.01)
    assert not holds(over)


def test_exact_counts_are_compared_as_they_are():
    found = Verification(measurement(0.4), 10.0)
    assert holds(found.violations(BUDGET, predicted(100.0)))
    assert not holds(found.violations(BUDGET, predicted(101.0)))


def test_what_could_not_be_measured_breaks_the_budget():
    failed = Verification(Measurement("a", error="no session"), math.nan)
    assert failed.violations(BUDGET, predicted())["latency_ms"] == math.inf
    assert "energy_mj" in Verification(measurement(0.4), 10.0).violations(
        Budget(energy_mj=1.0), predicted()
    )


def test_undecided_is_an_interval_that_holds_the_bound():
    assert Verification(measurement(0.495), 10.0).undecided(BUDGET)
    assert not Verification(measurement(0.48), 10.0).undecided(BUDGET)
    assert not Verification(measurement(0.52), 10.0).undecided(BUDGET)
    assert not Verification(measurement(0.495), 10.0).undecided(Budget(macs=1.0))


#: As of one round alone, which tells no interval.
ONE_ROUND = replace(measurement(0.4), ratio_interval=(0.0, math.inf), stopped="time")


@pytest.mark.parametrize(
    "found", [measurement(0.4), ONE_ROUND, Measurement("a", error="no session")]
)
def test_through_json_and_back(found):
    verification = Verification(found, 10.0)
    data = json.loads(json.dumps(verification.to_dict(), allow_nan=False))
    again = Verification.from_dict(data)
    assert again.to_dict() == verification.to_dict()
    assert again.measurement.ok == found.ok
    if found.ok:
        assert again == verification


def test_undecided_ones_alone_are_measured_again_and_longer():
    candidates = [Candidate.of({"a": n}) for n in (1, 2, 3)]
    asked = []

    def measure(some, effort):
        asked.append(([c["a"] for c in some], effort))
        ratio = {1: 0.6, 2: 0.495, 3: 0.4}
        return [measurement(ratio[c["a"]], 0.01 / effort, c.key) for c in some]

    found = measure_until_decided(measure, candidates, BUDGET, 10.0)
    assert asked == [([1, 2, 3], 1.0), ([2], 3.0)]
    assert [holds(v.violations(BUDGET, predicted())) for v in found] == [False, True, True]


@pytest.mark.parametrize(("every", "again"), [(False, [1]), (True, [1, 4])])
def test_what_is_behind_one_that_holds_is_measured_for_longer_only_if_wanted(every, again):
    candidates = [Candidate.of({"a": n}) for n in (1, 2, 3, 4)]
    asked = []

    def measure(some, effort):
        asked.append([c["a"] for c in some])
        ratio = {1: 0.495, 2: 0.6, 3: 0.4, 4: 0.496}
        return [measurement(ratio[c["a"]], 0.01 / effort, c.key) for c in some]

    found = measure_until_decided(measure, candidates, BUDGET, 10.0, every=every)
    assert asked == [[1, 2, 3, 4], again]
    assert [v.held(BUDGET) for v in found] == [True, False, True, every]


def test_one_that_becomes_decided_to_hold_ends_it_for_those_behind():
    candidates = [Candidate.of({"a": n}) for n in (1, 2)]
    asked = []

    def measure(some, effort):
        asked.append(([c["a"] for c in some], effort))
        ratio = {1: 0.495, 2: 0.5}
        return [measurement(ratio[c["a"]], 0.01 / effort, c.key) for c in some]

    measure_until_decided(measure, candidates, BUDGET, 10.0)
    assert asked == [([1, 2], 1.0), ([1, 2], 3.0)]


def test_held_needs_every_bound_to_be_told():
    found = Verification(measurement(0.4), 10.0)
    assert found.held(BUDGET)
    assert not found.held(Budget(latency_ms=5.0, energy_mj=1.0))
    assert not Verification(Measurement("a", error="no session"), math.nan).held(Budget(macs=1.0))


def test_measuring_ends_even_if_it_stays_undecided():
    asked = []

    def measure(some, effort):
        asked.append(effort)
        return [measurement(0.5, 0.01)]

    found = measure_until_decided(measure, [Candidate.of({"a": 1})], BUDGET, 10.0)
    assert asked == [1.0, 3.0, 9.0]
    assert not holds(found[0].violations(BUDGET, predicted()))


def test_without_a_fixed_reference_the_one_measured_counts():
    found = measure_until_decided(
        lambda some, effort: [measurement(0.4)], [Candidate.of({"a": 1})], BUDGET, None
    )
    assert found[0].reference_ms == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("ratio", "asked", "held"),
    [
        (0.4, [1.0], True),
        (0.495, [1.0, 3.0], True),
        (0.6, [1.0], False),
        (0.5, [1.0, 3.0, 9.0], False),
    ],
)
def test_a_network_is_measured_for_longer_until_it_is_decided(ratio, asked, held):
    efforts = []

    def measure(effort):
        efforts.append(effort)
        return measurement(1.0, 0.0, "dense"), measurement(ratio, 0.01 / effort)

    found, dense = measure_network_until_decided(measure, BUDGET, 10.0)
    assert efforts == asked
    assert holds(found.violations(BUDGET, predicted())) == held
    assert found.reference_ms == dense.reference_ms == 10.0
    assert dense.measurement.ratio == 1.0


def test_a_network_that_fails_when_measured_again_is_told_as_before():
    dense = measurement(1.0, 0.0, "dense")
    measured = iter([measurement(0.495), Measurement("pruned", error="lost"), measurement(0.495)])
    found, _ = measure_network_until_decided(lambda effort: (dense, next(measured)), BUDGET, 10.0)
    assert found.measurement.ok
    assert next(measured, None) is None


def test_a_network_without_a_fixed_reference_is_held_to_the_one_beside_it():
    failed = Measurement("dense", error="no session")
    for dense, reference in ((measurement(1.0, 0.0, "dense"), 12.0), (failed, math.nan)):
        both = (dense, measurement(0.4))
        found, _ = measure_network_until_decided(lambda effort, both=both: both, BUDGET, None)
        assert found.reference_ms == pytest.approx(reference, nan_ok=True)


def test_ranking_takes_each_candidate_once_and_no_failures():
    def trial(number, kept, accuracy, error=None):
        metrics = {} if error else {"accuracy": accuracy}
        return Trial(number, Candidate.of({"a": kept}), predicted(), metrics=metrics, error=error)

    trials = [
        trial(0, 1, 0.5),
        trial(1, 2, 0.9),
        trial(2, 2, 0.9),
        trial(3, 3, 0.9),
        trial(4, 4, 0, "x"),
    ]
    assert [t.number for t in ranked(trials, "accuracy")] == [1, 3, 0]


def test_energy_that_is_modelled_is_never_told_as_measured():
    measured = replace(measurement(0.4), energy_mj=3.0)
    modelled = replace(measured, energy_source="modelled")
    for told in (measured, modelled):
        found = Verification(told, 10.0)
        assert found.cost(predicted()).estimates["energy_mj"].source == told.energy_source
        assert told_to_people(found)["energy_source"] == told.energy_source
    assert told_to_people(Verification(measurement(0.4), 10.0))["energy_source"] is None
