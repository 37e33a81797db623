"""How noisy measured ratios are, told by the repeats of all candidates together.

A measurement's own interval is one that holds at least as often as it says: of three rounds it is
several times wider than their scatter, and one that was waited for is never narrower than what was
asked for. A model that weighs candidates against each other, and an interval that should hold no
more often than it says, need the standard deviation itself. A few rounds can't tell it, but those
of all candidates can, for the machine is the same: each candidate's variance is drawn towards the
usual one, as if that had been seen in so many rounds more (Smyth, "Linear Models and Empirical
Bayes Methods for Assessing Differential Expression", Statistical Applications in Genetics and
Molecular Biology 3 (2004), equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.cost import Floats
from autoprune.core.device import Measurement
from autoprune.cost.records import LEAST, Observation, ratio_std, ratios

#: The usual variance counts as much as that of so many rounds.
_USUAL = 6.0
#: A round further from its candidate's others than so many usual deviations counts as so far: the
#: mean over rounds is a robust one.
_FAR = 3.0
#: Of a normal distribution: standard deviation over median of the absolute deviation.
_NORMAL = 1.4826


def ratio_noise(measured: Sequence[Observation | Measurement]) -> Floats:
    """(N,) standard deviation of each ratio, from the rounds of all and what its own can't show.

    Args:
        measured: N candidates of one device. One with fewer than two rounds has the standard
            deviation that its own interval tells.
    """
    result = np.array([m.std if isinstance(m, Observation) else ratio_std(m) for m in measured])
    logs = [np.log(ratios(m)) for m in measured]
    several = [i for i, each in enumerate(logs) if len(each) > 1]
    if not several:
        return result
    off = [logs[i] - logs[i].mean() for i in several]
    # Deviations from a mean of n are smaller than those from the truth.
    alike = [np.abs(d) * np.sqrt(len(d) / (len(d) - 1)) for d in off]
    usual = _NORMAL * float(np.median(np.concatenate(alike)))
    for i, deviation in zip(several, off, strict=True):
        count = len(deviation)
        squares = np.minimum(np.abs(deviation), _FAR * usual) ** 2
        variance = (_USUAL * usual**2 + squares.sum()) / (_USUAL + count - 1)
        std = math.hypot(math.sqrt(variance / count), measured[i].common_std)
        result[i] = measured[i].ratio * max(std, LEAST)
    return result


def halves_apart(measured: Sequence[Observation | Measurement]) -> float:
    """Median difference between two halves of each measurement, as a fraction; NaN for none."""
    pairs = [h for m in measured if (h := _halves(m)) is not None]
    return float(np.median([abs(a - b) / ((a + b) / 2) for a, b in pairs])) if pairs else math.nan


def _halves(measured: Observation | Measurement) -> tuple[float, float] | None:
    """The ratio from the even and from the odd repeats, or None where there are too few."""
    each = ratios(measured)
    if len(each) < 2:
        return None
    return float(np.median(each[::2])), float(np.median(each[1::2]))
