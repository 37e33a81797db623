"""How long a sweep would take: tried on one candidate of each model, before anything is run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from autoprune.study.batch_config import Job, SweepConfig, plan


@dataclass(frozen=True)
class Estimate:
    """What a sweep would take.

    Attributes:
        jobs: its searches.
        evaluation_s: seconds of one evaluation, by model, as tried now on this machine.
        tables: latency tables that would be measured.
        seconds: of all of it, with the searches side by side as the sweep says; without recovery.
    """

    jobs: list[Job]
    evaluation_s: dict[str, float]
    tables: int
    seconds: float


def estimate(sweep: SweepConfig, base: Path, where: str) -> Estimate:
    """Evaluate one candidate of each model, and add up.

    Evaluations that searches share are counted for each, tables and measurements with the time
    they may take at most: it ends sooner rather than later.

    Raises:
        AutopruneError: a model can't be built, traced or evaluated.
    """
    jobs = plan(sweep, where)
    seconds: dict[str, float] = {}
    for job in jobs:
        if job.model not in seconds:
            seconds[job.model] = _one_evaluation(job, base)
    tables = {job.table: job for job in jobs if job.table is not None}
    work = sum(job.config.trials * seconds[job.model] + _measuring(job) for job in jobs)
    work += sum(job.config.profile.timeout_s for job in tables.values())
    side_by_side = min(sweep.jobs.parallel, len(jobs))
    longest = max(job.config.trials * seconds[job.model] for job in jobs)
    return Estimate(jobs, seconds, len(tables), max(work / side_by_side, longest))


def _measuring(job: Job) -> float:
    """Seconds that a search measures its winners: one round, and the network that is shipped."""
    if job.config.device is None:
        return 0.0
    settings = job.config.verify
    return settings.timeout_s * (settings.top + 1 if job.table is not None else 1)


def _one_evaluation(job: Job, base: Path) -> float:
    from autoprune.core.candidate import Candidate
    from autoprune.core.errors import EvaluationError
    from autoprune.graph import trace
    from autoprune.study.calibration import for_search, importance_of
    from autoprune.study.evaluation import CandidateEvaluator
    from autoprune.study.task import task_from_config

    task = task_from_config(job.config, base)
    network = trace(task.model, task.example_inputs)
    evaluator = CandidateEvaluator(
        network,
        task.evaluate,
        objective=job.config.objective,
        importance=importance_of(task),
        calibration=for_search(task.calibration),
        reconstruct=job.config.reconstruct,
    )
    kept = {group.name: max(1, math.ceil(0.7 * group.units)) for group in network.groups}
    outcome = evaluator(Candidate.of(kept))
    if outcome.error is not None:
        raise EvaluationError(f"model {job.model!r}: {outcome.error}")
    return outcome.seconds
