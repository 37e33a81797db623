"""torch.export → `Network`: coupled channel groups and symbolic kernels."""

from autoprune.graph.describe import describe
from autoprune.graph.network import ChannelGroup, Member, Network, Selection
from autoprune.graph.trace import trace

__all__ = ["ChannelGroup", "Member", "Network", "Selection", "describe", "trace"]
