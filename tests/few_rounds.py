"""The protocol of tests that look at what comes back, not at how exact it is."""

from autoprune.core.device import MeasuringProtocol

#: Two rounds where the machine is quiet; where it is busy, as many as it takes until two count.
FEW = MeasuringProtocol(warmup=1, runs=2, min_rounds=2, max_rounds=40, width=1e9, timeout_s=300.0)
