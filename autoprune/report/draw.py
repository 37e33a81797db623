"""The picture of a finished run, whichever kind of run it was."""

from __future__ import annotations

from pathlib import Path

from autoprune.core.errors import ConfigError
from autoprune.report.family import family_picture
from autoprune.report.pareto import front_picture
from autoprune.report.scatter import scatter
from autoprune.study import Result
from autoprune.study.folder import RunFolder


def draw(result: Result, path: str | Path | None = None) -> Path:
    """Draw a result as a PNG: its trials, its front, or the family of its budgets.

    Args:
        result: of `search` or `resume`.
        path: of the picture; None draws `trials.png`, `pareto.png` or `family.png` in the run
            folder.

    Returns:
        The picture's path.

    Raises:
        ConfigError: no trial finished; or there is no run folder and no path, or a family without
            a run folder, whose figures are there.
        RunError: the file can't be written.
    """
    folder = run_folder(result)
    if folder is None and (path is None or result.family):
        raise ConfigError(
            "the picture of several budgets needs the run's folder; give search(out=...) one"
            if result.family
            else "a run without a folder needs a path for its picture: draw(result, 'run.png')"
        )
    if not any(trial.ok for trial in result.trials):
        raise ConfigError("a picture shows trials, and none finished")
    here = folder or Path()
    if result.family:
        family = RunFolder(here).read_json(RunFolder(here).family)
        return family_picture(family, result.trials, path or here / "family.png")
    if result.front is not None and result.front["points"]:
        return front_picture(result.front, result.trials, path or here / "pareto.png")
    return scatter(result.data, result.trials, path or here / "trials.png")


def run_folder(result: Result) -> Path | None:
    """The run folder; of a family, the one that holds the folders of its budgets."""
    if result.folder is None or not result.family:
        return result.folder
    return result.folder.parent
