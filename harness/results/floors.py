"""Which methods are floors: those that know nothing of the network, and that every other one has to beat."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ..config import CONF


def floors(folders: Sequence[Path] = (CONF,)) -> list[str]:
    """The methods whose file in one of the folders says `floor: true`; nothing is composed or built."""
    files = [path for folder in folders for path in sorted((folder / "method").glob("*.yaml"))]
    return [path.stem for path in files if OmegaConf.select(OmegaConf.load(path), "floor")]
