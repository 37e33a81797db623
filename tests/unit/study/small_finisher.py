"""What ends a search, of which a test gives what it looks at."""

from autoprune.study.evaluation import CandidateEvaluator, Phases
from autoprune.study.finish import Finisher
from autoprune.study.progress import Progress
from autoprune.study.settings import RecoverSettings


def finisher(network, evaluate, train, *, epochs, calibration=None, **given):
    """Fine-tunes for so many epochs; without a device, and any loss but cross-entropy."""
    options = {"loss": None, "device": None, "limits": None, **given}
    return Finisher(
        CandidateEvaluator(network, evaluate, calibration=calibration),
        evaluate,
        objective="accuracy",
        calibration=calibration,
        train=train,
        recover=RecoverSettings(epochs=epochs),
        seed=0,
        checkpoints=None,
        reference_ms=None,
        progress=Progress(),
        phases=Phases(),
        **options,
    )
