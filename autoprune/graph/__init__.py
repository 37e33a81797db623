"""torch.export → `Network`: coupled channel groups and symbolic kernels."""

from autoprune.graph.network import ChannelGroup, Member, Network, Selection
from autoprune.graph.trace import trace

__all__ = ["ChannelGroup", "Member", "Network", "Selection", "trace"]
