"""What workers do in tests: evaluations that sleep, hang, die and count themselves."""

import os
import signal
import time
from pathlib import Path

from autoprune.core.device import DeviceSpec
from autoprune.core.errors import ConfigError
from autoprune.evaluate import Outcome


class Scripted:
    """Accuracy is the kept count over 100; a line "ticket begin|end" in a log for each.

    Args:
        folder: for the log and the marks of what happened once.
        sleeps: kept count → seconds; others take no time.
        waits: kept counts that take until they are let go.
        dies: kept counts whose worker is killed: at the first try, or always.
        always: whether they are killed every time.
    """

    def __init__(self, folder, sleeps=None, waits=(), dies=(), always=False):
        self.folder, self.sleeps, self.waits = Path(folder), sleeps or {}, waits
        self.dies, self.always = dies, always

    def __call__(self):
        return self.evaluate

    def evaluate(self, candidate):
        kept = candidate["conv"]
        self.note(f"{kept} begin")
        if kept in self.dies and (self.always or self.once(f"died-{kept}")):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.sleeps.get(kept, 0))
        while kept in self.waits and not (self.folder / f"go-{kept}").exists():
            time.sleep(0.02)
        self.note(f"{kept} end")
        return Outcome({"accuracy": kept / 100, "pid": float(os.getpid())})

    def let_go(self, kept):
        """End the evaluation of so many kept units."""
        (self.folder / f"go-{kept}").touch()

    def once(self, mark):
        try:
            (self.folder / mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def note(self, line):
        with (self.folder / "log").open("a") as file:
            file.write(line + "\n")

    def counts(self, what):
        """Kept count → how often."""
        found = {}
        for line in (self.folder / "log").read_text().splitlines():
            kept, word = line.split()
            if word == what:
                found[int(kept)] = found.get(int(kept), 0) + 1
        return found


def raises_own():
    raise ConfigError("the data is not here")


def raises_other():
    raise ZeroDivisionError("oh")


class Raising:
    """Evaluations that raise what no evaluation should."""

    def __call__(self):
        return self.evaluate

    def evaluate(self, candidate):
        raise ZeroDivisionError(f"at {candidate['conv']}")


class Synthetic:
    """The accuracy of a synthetic problem, after a pause that differs from time to time.

    Args:
        jitter_s: the longest pause.
    """

    def __init__(self, jitter_s=0.0):
        self.jitter_s = jitter_s

    def __call__(self):
        from autoprune.testing.problems import SyntheticProblem

        self.problem = SyntheticProblem.resnet(blocks=1)
        return self.evaluate

    def evaluate(self, candidate):
        time.sleep(self.jitter_s * (time.perf_counter_ns() % 1000) / 1000)
        return Outcome(self.problem.evaluate(candidate))


class Noting:
    """A profiler that takes a moment, and writes down when it begins and ends.

    Args:
        folder: for the log.
        dies: whether its process is killed the first time.
    """

    def __init__(self, folder, dies=False):
        self.work, self.dies = Scripted(folder), dies

    @property
    def device(self):
        return DeviceSpec("bench", "none", "1")

    def measure(self, artifacts, protocol):
        self.work.note("begin")
        if self.dies and self.work.once("measuring died"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        self.work.note("end")
        return []
