"""What a remote device is, of what the agent tells of it and of what is done here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.device import DeviceSpec
from autoprune.profile import replies
from autoprune.profile.ssh_runtime import RemoteRuntime


@dataclass(frozen=True)
class RemoteDevice:
    """Describes the device at the other end.

    Attributes:
        target: user@host.
        runtime: there.
        meter: the name of a meter that is read there; "" for none.
    """

    target: str
    runtime: RemoteRuntime
    meter: str

    def spec(self, told: Mapping[str, Any]) -> DeviceSpec:
        """The device.

        Args:
            told: the agent's reply to `start`.

        Raises:
            ProfilerError: that is no device.
        """
        self.runtime.started(told.get("details", {}))
        details = {
            **told.get("details", {}),
            **self.runtime.details,
            "over": f"ssh to {self.target}",
        }
        if self.meter:
            covers = told.get("meter", {}).get("covers", "idle power included")
            details["energy"] = f"measured, {self.meter}: {covers}"
        about = {
            **told.get("about", {}),
            "precision": self.runtime.precision,
            "details": details,
        }
        return replace(replies.device(about, "the device"), settings=self.runtime.settings)
