"""Other weights of a network's architecture: members of an ensemble."""

from dataclasses import dataclass

from ..modules import fingerprint
from ..network import Network
from .weights import file_sha256, find_weights, load_weights


@dataclass(frozen=True)
class OtherWeights:
    """Reads weights files of one architecture as the networks' own are read: strictly, and without running code."""

    def digest(self, weights: str) -> str:
        """First 20 hex digits of the file's sha256."""
        return file_sha256(find_weights(weights))[:20]

    def load(self, network: Network, weights: str) -> Network:
        """A copy of the network with the file's weights; its passes are counted with the network's.

        Raises:
            FileNotFoundError, ValueError: no such file, or it is of another architecture.
        """
        made = network.twin()
        load_weights(made.module, weights)
        made.fingerprint = fingerprint(made.module.state_dict())
        return made
