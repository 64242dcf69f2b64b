"""Trained networks that ship in Python packages, as generators of fakes from photographs."""

from detector.synth.networks.runner import Network, NetworkError, available_networks, load_network
from detector.synth.networks.table import NETWORKS, NetworkSpec

__all__ = ["NETWORKS", "Network", "NetworkError", "NetworkSpec", "available_networks", "load_network"]
