"""Where a search evaluates: in this process, or on workers that build their own evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.candidate import Candidate
from autoprune.evaluate.base import EvaluatorPool, Outcome, Work
from autoprune.evaluate.local import LocalPool

if TYPE_CHECKING:
    from autoprune.graph.network import Network
    from autoprune.pruning.importance import Importance, Scores
    from autoprune.study.cache import EvaluationCache
    from autoprune.study.evaluation import CandidateEvaluator
    from autoprune.study.task import Task


def make_pool(task: Task, evaluator: CandidateEvaluator) -> EvaluatorPool:
    """The pool that a task asks for.

    Args:
        task: whose config may ask for workers.
        evaluator: evaluates in this process, where it asks for none.

    Raises:
        AutopruneError: as `RayPool`.
    """
    workers = task.config.workers
    if workers is None:
        return LocalPool(evaluator if task.cache is None else CachedWork(evaluator, task.cache))
    from autoprune.evaluate.ray import RayPool

    threads = workers.threads or max(1, int(workers.resources.get("cpu", 1)))
    return RayPool(
        EvaluatorSource.of(task, evaluator, threads),
        workers.count,
        address=workers.address,
        resources=workers.resources,
        timeout_s=workers.timeout_s,
        retries=workers.retries,
        ordered=workers.ordered,
    )


def check_workers(task: Task) -> None:
    """Refuse workers that can't be had, before anything is spent.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: no cluster that can be used is at the address, or no node has the resources.
    """
    workers = task.config.workers
    if workers is None:
        return
    from autoprune.evaluate.ray_cluster import check_own, connected, import_ray

    import_ray()
    if workers.address is None:
        check_own(workers.resources)
        return
    with connected(workers.address) as cluster:
        cluster.require(workers.resources)


@dataclass(frozen=True)
class CachedWork:
    """Evaluates what no search of the batch has.

    Attributes:
        work: evaluates.
        cache: of the batch.
    """

    work: Work
    cache: EvaluationCache

    def __call__(self, candidate: Candidate) -> Outcome:
        """What is known of a candidate, or what evaluating it gives."""
        return self.cache.candidate(candidate, self.work)


@dataclass(frozen=True)
class EvaluatorSource:
    """Builds a task's evaluator in another process; the network is traced there again.

    What a config names is imported there by its name; the network, its inputs, the calibration
    batches and what was given as an object come along.

    Attributes:
        config: the task's, as JSON values.
        base: relative paths of the config start here.
        threads: of torch, for each worker.
        payload: the task's objects, serialised.
    """

    config: dict[str, Any]
    base: str
    threads: int
    payload: bytes

    @classmethod
    def of(cls, task: Task, evaluator: CandidateEvaluator, threads: int) -> EvaluatorSource:
        """Pack a task.

        Args:
            task: the search.
            evaluator: of this process, whose scores of units are sent along.
            threads: of torch, for each worker.

        Raises:
            ConfigError: an object can't be sent to another process.
        """
        from autoprune.evaluate.packed import pack
        from autoprune.study.calibration import for_search

        config = task.config
        objects = {
            "model": task.model,
            "example_inputs": task.example_inputs,
            "calibration": for_search(task.calibration),
            "scores": evaluator.scores,
            "evaluate": None if config.evaluate is not None else task.evaluate,
        }
        packed = {name: pack(value, name) for name, value in objects.items()}
        return cls(
            config.model_dump(mode="json"), str(task.base), threads, pack(packed, "the task")
        )

    def __call__(self) -> Work:
        """Build the evaluator; called in the worker."""
        import torch

        from autoprune.evaluate.packed import unpack
        from autoprune.graph import trace
        from autoprune.study.config import validate
        from autoprune.study.evaluation import CandidateEvaluator
        from autoprune.study.references import function_reference, import_reference

        torch.set_num_threads(self.threads)
        base = Path(self.base)
        config = validate(self.config, "the worker's config")
        for what, named in (("model", config.model), ("calibration", config.calibration)):
            if named is not None:
                # Classes of the user's file must be there before their objects are unpacked.
                import_reference(named.name, base, what)
        packed: dict[str, bytes] = unpack(self.payload, "the task")
        objects = {name: unpack(data, name) for name, data in packed.items()}
        evaluate = objects["evaluate"]
        if config.evaluate is not None:
            named = config.evaluate
            evaluate = function_reference(named.name, named.options, base, "evaluate")
        network = trace(objects["model"], objects["example_inputs"])
        return CandidateEvaluator(
            network,
            evaluate,
            objective=config.objective,
            importance=_known(objects["scores"]),
            calibration=objects["calibration"],
            reconstruct=config.reconstruct,
        )


def _known(scores: Scores) -> Importance:
    """An importance that was computed already, in the process that searches."""
    from autoprune.pruning.importance import Importance

    class Known(Importance):
        def scores(self, network: Network) -> Scores:
            return scores

    return Known()
