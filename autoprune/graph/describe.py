"""What `autoprune inspect` prints: the groups, their members, what is frozen and why."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprune.graph.network import ChannelGroup, Network

#: Names that a cell lists before it says how many more there are.
_LISTED = 6


def describe(network: Network) -> RenderableType:
    """A network's channel groups and frozen layers, for a `rich` console of 80 columns or more.

    Args:
        network: as `trace` gives it.

    Returns:
        A table of groups (name and whether it can be removed whole, units, the layers that make
        their channels and those that read them, and how many channels a unit is where it is not
        one) and a table of what is frozen, by reason.
    """
    units = sum(group.units for group in network.groups)
    parts: list[RenderableType] = [
        Text(
            f"{_count(len(network.groups), 'channel group')} with {_count(units, 'unit')} can be "
            f"pruned; {_count(len(network.frozen), 'layer')} can't, in whole or in part."
        )
    ]
    if network.groups:
        parts.append(_groups(network))
    if network.frozen:
        parts.append(_frozen(network))
    return Group(*parts)


def _groups(network: Network) -> Table:
    table = Table(title="Channel groups", title_justify="left", expand=False)
    table.add_column("Group", overflow="fold", ratio=2)
    table.add_column("Units", justify="right", no_wrap=True)
    table.add_column("Made by", overflow="fold", ratio=3)
    table.add_column("Read by", overflow="fold", ratio=3)
    for group in network.groups:
        made, read = _layers(group, "out"), _layers(group, "in")
        name = group.name + (" (removable)" if group.name in network.kernels.removable else "")
        table.add_row(name, str(group.units), _listed(made), _listed(read))
    return table


def _frozen(network: Network) -> Table:
    table = Table(title="Frozen", title_justify="left", expand=False)
    table.add_column("Layers", overflow="fold", ratio=1)
    table.add_column("Why", overflow="fold", ratio=1)
    reasons: dict[str, list[str]] = {}
    for layer, reason in network.frozen.items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        table.add_row(_listed(layers), reason)
    return table


def _layers(group: ChannelGroup, role: str) -> list[str]:
    """The layers of a group's members, with the channels that a unit is in each if not one."""
    found: dict[str, int] = {}
    for member in group.members:
        if member.role == role:
            layer = member.tensor.rpartition(".")[0] or member.tensor
            found[layer] = max(found.get(layer, 0), member.indices.shape[1])
    return [name if width == 1 else f"{name} (x{width})" for name, width in found.items()]


def _listed(names: list[str]) -> str:
    shown = names[:_LISTED]
    if len(names) > len(shown):
        shown.append(f"and {len(names) - len(shown)} more")
    return "\n".join(shown)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
