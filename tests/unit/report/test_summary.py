import copy

import pytest
from rich.console import Console

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import ConfigError
from autoprune.core.trial import Trial
from autoprune.report import plain, scatter, summary
from autoprune.report.summary import duration, number


def cost(latency, macs=125.5e6):
    return Cost(
        {
            "latency_ms": Estimate(latency, 0.01, "measured"),
            "macs": Estimate(macs),
            "params": Estimate(macs / 150),
            "memory_bytes": Estimate(3.0 * 2**20),
        }
    ).to_dict()


DATA = {
    "schema": 1,
    "held": True,
    "budget": {
        "asked": {"latency_ms": "0.7x", "macs": 60e6},
        "limits": {"latency_ms": 3.71, "macs": 60e6},
        "violations": {"latency_ms": -0.012, "macs": -0.1},
    },
    "objective": "accuracy",
    "dense": {"metrics": {"accuracy": 0.9316, "loss": 0.3}, "cost": cost(5.3), "measured": None},
    "winner": {
        "trial": 7,
        "metrics": {"accuracy": 0.92, "loss": 0.35},
        "metrics_before_recovery": {"accuracy": 0.9071, "loss": 0.4},
        "cost": cost(3.66, 54e6),
        "predicted": cost(3.6, 54e6),
        "measured": {
            "error": None,
            "latency_ms": 3.66,
            "interval_ms": [3.65, 3.67],
            "ratio": 0.69,
            "ratio_interval": [0.688, 0.692],
            "energy_mj": None,
            "rounds": 12,
            "stopped": "interval",
        },
        "kept": {"a": {"kept": 8, "of": 16}},
    },
    "trials": {"finished": 200, "failed": 3},
    "verified": {"7": {"held": True, "cost": cost(3.66)}},
    "table": {"verified": 6, "median_error": 0.012, "worst_error": 0.031},
    "seconds": {"total": 754.2},
    "seed": 0,
    "device": {"text": "some CPU · onnxruntime 1.31 (cpu, fp32, 1 thread)"},
    "notes": ["a note"],
}


def changed(**parts):
    data = copy.deepcopy(DATA)
    for path, value in parts.items():
        place = data
        *keys, last = path.split("__")
        for key in keys:
            place = place[key]
        place[last] = value
    return data


def test_everything_a_person_asks_is_there():
    text = plain(DATA)
    for part in (
        "0.9316",
        "0.9200",
        "before recovery",
        "0.9071",
        "3.65 to 3.67 ms",
        "0.691x",
        "125.5 M",
        "FLOPs = 2 × MACs",
        "251 M",
        "budget held: latency_ms measured 3.66 ± 0.01 ≤ 3.71 (0.7x)",
        "budget held: macs 5.4e+07 ≤ 6e+07",
        "200 trials, 3 failed, 1 measured end to end, seed 0, 12 min 34 s",
        "off by 1.2% (median; worst 3.1%)",
        "note: a note",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_terminal(width):
    assert max(len(line.rstrip()) for line in plain(DATA, width).splitlines()) <= width
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(DATA))
    assert "…" not in console.export_text()


def test_not_held_says_so():
    text = plain(
        changed(
            budget__violations={"latency_ms": 0.02, "macs": -0.1}, budget__limits__latency_ms=3.6
        )
    )
    assert "budget not held: latency_ms measured 3.66 ± 0.01 > 3.6 (0.7x)" in text
    assert "budget held: macs" in text


def test_a_failed_measurement_is_no_number():
    text = plain(
        changed(
            winner__measured={"error": "no session"},
            budget__violations={"latency_ms": None, "macs": -0.1},
        )
    )
    assert "budget not held: latency_ms it could not be measured: no session" in text
    assert "latency could not be measured: no session" in text


def test_without_a_device_no_latency_is_shown():
    data = changed(winner__measured=None, device=None, table=None, verified={})
    for part in ("dense", "winner"):
        del data[part]["cost"]["latency_ms"]
    data["budget"] = {"asked": {"macs": "0.5x"}, "limits": {"macs": 6e7}, "violations": {"macs": 0}}
    text = plain(data)
    assert "latency" not in text
    assert "budget held: macs" in text


def test_without_recovery_accuracy_is_told_once():
    same = changed(winner__metrics_before_recovery={"accuracy": 0.92, "loss": 0.35})
    assert "before recovery" not in plain(same)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_number():
    assert [number(v) for v in (None, 0.5, 93.16, 1234.5678)] == ["", "0.5000", "93.1600", "1234.6"]


def trials():
    def one(n, error=None):
        predicted = Cost({"macs": Estimate(5e7 + n * 1e6), "latency_ms": Estimate(3.0 + n / 10)})
        measured = (
            Cost({"latency_ms": Estimate(3.1 + n / 10, 0.02, "measured")}) if n == 2 else None
        )
        metrics = {} if error else {"accuracy": 0.8 + n / 100}
        return Trial(n, Candidate.of({"a": 1 + n}), predicted, measured, metrics, error)

    return [*(one(n) for n in range(5)), one(5, "failed")]


def test_a_picture_is_drawn(tmp_path):
    for metric in (None, "macs"):
        path = scatter(DATA, trials(), tmp_path / "trials.png", metric)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_metric_that_no_trial_has(tmp_path):
    with pytest.raises(ConfigError, match="no trial has a figure for 'energy_mj'"):
        scatter(DATA, trials(), tmp_path / "trials.png", "energy_mj")


def test_what_is_to_be_known_of_the_measuring_is_told_once():
    both = "2 of 12 rounds are left out"
    text = plain(
        changed(
            dense__measured={"error": None, "notes": ["the machine was not steady", both]},
            winner__measured__notes=[both],
        )
    )
    assert "measuring: the machine was not steady" in text
    assert text.count(f"measuring: {both}") == 1
