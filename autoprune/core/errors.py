"""Every error that autoprune raises on purpose.

::

    AutopruneError
    ├── ConfigError              a setting, a file or a path that the user gave is wrong
    │   └── PluginError          a name that resolves to no plug-in, or to two
    ├── MissingDependencyError   an optional package or tool is not installed
    ├── BudgetError              a budget that can't be read
    │   └── InfeasibleBudgetError    no candidate holds it; says the smallest that is possible
    ├── TraceError               torch.export refuses the network
    │   └── UnsupportedOpError   an op without a rule, with strict=True
    ├── SurgeryError             a pruned network can't be built, or differs from the masked one
    ├── CandidateError           a candidate or a selection that does not fit its network
    ├── ExportError              the network can't be written in the format asked for
    ├── EvaluationError          `evaluate` raised, or gave no finite number
    ├── TableError               a latency table that can't be read or used
    │   ├── TableFormatError     truncated, edited or of a newer schema
    │   └── TableMismatchError   measured on another device, runtime, precision or thread count
    ├── ProfilerError            a profiler that can't run here
    ├── SearchError              a searcher that can't go on
    └── RunError                 a run folder that can't be used
        ├── RunLockedError       another process works in it
        └── RunVersionError      written by a newer autoprune

A message says what must be, what was got, and what to do.
"""


class AutopruneError(Exception):
    """Base of every error that autoprune raises on purpose."""


class ConfigError(AutopruneError):
    """A setting, a file or a path that the user gave is wrong."""


class PluginError(ConfigError):
    """A name that resolves to no plug-in, or to two."""


class MissingDependencyError(AutopruneError):
    """An optional package or tool is not installed."""


class BudgetError(AutopruneError):
    """A budget that can't be read."""


class InfeasibleBudgetError(BudgetError):
    """No candidate holds the budget."""


class TraceError(AutopruneError):
    """torch.export refuses the network."""


class UnsupportedOpError(TraceError):
    """An op has no coupling rule and `strict=True` was asked for."""


class SurgeryError(AutopruneError):
    """A pruned network can't be built, or differs from the masked one."""


class CandidateError(AutopruneError):
    """A candidate or a selection that does not fit its network."""


class ExportError(AutopruneError):
    """The network can't be written in the format asked for."""


class EvaluationError(AutopruneError):
    """`evaluate` raised, or gave no finite number."""


class TableError(AutopruneError):
    """A latency table that can't be read or used."""


class TableFormatError(TableError):
    """A table file that is truncated, edited or of a newer schema."""


class TableMismatchError(TableError):
    """A table of another device, runtime, precision or thread count."""


class ProfilerError(AutopruneError):
    """A profiler that can't run here."""


class SearchError(AutopruneError):
    """A searcher that can't go on."""


class RunError(AutopruneError):
    """A run folder that can't be used."""


class RunLockedError(RunError):
    """Another process works in this run folder."""


class RunVersionError(RunError):
    """A run folder written by a newer autoprune."""
