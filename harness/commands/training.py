"""The embedded networks, made anew: train."""

from pathlib import Path

import click

from ..config import ConfigError, suggest
from ..overrides import compose_config
from .options import searched

BOTH = ("scenes_vgg", "scenes_resnet")
SIZES = {"train": 16000, "val": 2000}  # drawn scenes


@click.command()
@click.argument("names", nargs=-1, metavar="[NETWORK]...")
@click.option("--networks", multiple=True, metavar="NETWORK...", help=f"which (default: {' '.join(BOTH)})")
@click.option("--out", default="harness/networks/embedded", metavar="FOLDER", help="of the weights", show_default=True)
def train(names: tuple[str, ...], networks: tuple[str, ...], out: str) -> int:
    """Train the embedded networks and write their weights."""
    from ..build import build
    from ..networks.train import RECIPES, train_embedded

    chosen = (*networks, *names) or BOTH
    for name in chosen:
        if name not in RECIPES:
            raise ConfigError(suggest(name, RECIPES, "embedded network"))
    if Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder for the weights")
    data = {}
    for split, size in SIZES.items():
        config = compose_config([*searched(), "dataset=scenes_train", f"dataset.split={split}", f"dataset.size={size}"])
        data[split] = build(config.dataset)
    for name in chosen:
        train_embedded(name, data["train"], data["val"], Path(out))
    return 0
