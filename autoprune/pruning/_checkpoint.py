"""Recovery on disk: where it stands after each epoch, so that it can go on after a kill."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.errors import ConfigError, RunError
from autoprune.core.files import write_atomically
from autoprune.pruning.record import PruneRecord

#: Of the files' layout.
SCHEMA = 1
_STATE = "recovery.json"


@dataclass(frozen=True)
class Epoch:
    """One epoch of recovery.

    Attributes:
        epoch: from 1; 0 is the network as it was given.
        loss: mean training loss, NaN for epoch 0.
        metrics: what `evaluate` gave; empty without one.
    """

    epoch: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class State:
    """Where a recovery stands between two epochs.

    Attributes:
        history: every epoch so far.
        best: the best of them.
        weights: of the best epoch.
        steps: optimizer steps so far.
        reason: why it ended, or None while it goes on.
    """

    history: list[Epoch]
    best: Epoch
    weights: dict[str, Any]
    steps: int = 0
    reason: str | None = None


class Checkpoint:
    """A recovery's files in a folder: `recovery.json` and the tensors that it names.

    Args:
        folder: made where there is none.
        settings: of the recovery; a checkpoint of others is refused.
        model: the network; a checkpoint of one with other tensors, or of another selection of
            channels, is refused.

    Raises:
        ConfigError: the network has state that is no tensor.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any], model: nn.Module) -> None:
        self.folder = Path(folder)
        self._settings = json.loads(json.dumps(settings))
        self._network = _fingerprint(model)

    def save(
        self, state: State, model: nn.Module, tuner: torch.optim.Optimizer, scaler: Any
    ) -> None:
        """Write it, whole or not at all.

        Raises:
            RunError: the folder can't be written.
        """
        from safetensors.torch import save as to_bytes

        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in state.weights.items()}
        for index, slots in tuner.state_dict()["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
        tensors |= {f"random.{k}": v for k, v in _random(model).items()}
        # A tensor that stands in two places is written twice: the format knows no sharing.
        plain = {
            k: v.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
            for k, v in tensors.items()
        }
        name = f"epoch-{state.history[-1].epoch:05}.safetensors"
        old = self._read()
        write_atomically(self.folder / name, to_bytes(plain))
        data = {
            "schema": SCHEMA,
            "network": self._network,
            "settings": self._settings,
            "tensors": name,
            "history": [
                [e.epoch, e.loss if math.isfinite(e.loss) else None, dict(e.metrics)]
                for e in state.history
            ],
            "best": state.best.epoch,
            "steps": state.steps,
            "reason": state.reason,
            "scaler": scaler.state_dict(),
        }
        write_atomically(self.folder / _STATE, json.dumps(data, indent=1) + "\n")
        if old is not None and old["tensors"] != name:
            (self.folder / str(old["tensors"])).unlink(missing_ok=True)

    def load(self, model: nn.Module, tuner: torch.optim.Optimizer, scaler: Any) -> State | None:
        """Put everything back as it was after the last finished epoch; None where there is none.

        Raises:
            RunError: the files are damaged, or belong to another recovery.
        """
        data = self._read()
        if data is None:
            return None
        other = "another network, or other channels of it"
        if data.get("network") == self._network:
            theirs = data["settings"]
            other = ", ".join(k for k, v in self._settings.items() if theirs.get(k) != v)
            other = other and f"other settings ({other})"
        if other:
            raise RunError(
                f"{self.folder} holds a recovery of {other}; go on with the same, give another "
                "folder, or delete it"
            )
        from safetensors import SafetensorError

        try:
            return self._restore(data, model, tuner, scaler)
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise RunError(
                f"the recovery in {self.folder} can't be gone on with: {error}; delete the folder "
                "to begin anew"
            ) from error

    def _restore(
        self, data: Mapping[str, Any], model: nn.Module, tuner: torch.optim.Optimizer, scaler: Any
    ) -> State:
        from safetensors.torch import load

        tensors = load((self.folder / Path(str(data["tensors"])).name).read_bytes())
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        history = [
            Epoch(int(e), math.nan if loss is None else float(loss), dict(metrics))
            for e, loss, metrics in data["history"]
        ]
        state = State(
            history=history,
            best=next(e for e in history if e.epoch == data["best"]),
            weights=dict(parts["best"]),
            steps=int(data["steps"]),
            reason=data["reason"],
        )
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            slots.setdefault(int(index), {})[key] = value
        model.load_state_dict(parts["model"])
        tuner.load_state_dict({**tuner.state_dict(), "state": slots})
        scaler.load_state_dict(data["scaler"])
        _set_random(model, parts["random"])
        return state

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / _STATE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} can't be read: {error}; delete {self.folder} to begin anew"
            ) from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise RunError(
                f"{path} must be a recovery of schema {SCHEMA}; delete {self.folder} to begin anew"
            )
        return data


def _fingerprint(model: nn.Module) -> str:
    """Of the tensors' names, shapes and types, and of the channels that are kept."""
    state = model.state_dict()
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ConfigError(
            "a recovery can be resumed only where the network's state is made of tensors, but "
            f"{wrong[0]} is a {type(state[wrong[0]]).__name__}; recover without a checkpoint"
        )
    record = getattr(model, "autoprune_record", None)
    about = {
        "tensors": {k: [str(v.dtype), *v.shape] for k, v in state.items()},
        "kept": {k: list(v) for k, v in record.kept.items()}
        if isinstance(record, PruneRecord)
        else None,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _random(model: nn.Module) -> dict[str, Tensor]:
    """States of the random generators that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random(model: nn.Module, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    device = next(model.parameters()).device
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
