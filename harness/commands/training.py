"""Networks, made: train."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..arguments import config_folders
from ..config import Choice, ConfigError, RunConfig, suggest
from ..overrides import compose_config
from ..results.terminal import wrapped
from ..sources import check_one
from .options import searched

if TYPE_CHECKING:
    from ..networks.learning import Course
    from ..networks.recipe import Recipe
    from ..types import Dataset

SHIPPED = ("scenes_vgg", "scenes_resnet", "scenes_vit")
SIZES = {"train": 16000, "val": 2000}  # drawn scenes
EMBEDDED, OWN = "harness/networks/embedded", "weights"  # where weights go
PART = "assay.datasets.part.Part"


@click.command()
@click.argument("names", nargs=-1, metavar="[NETWORK|RECIPE]... [KEY=VALUE]...")
@click.option("--networks", multiple=True, metavar="NETWORK...", help=f"which (default: {' '.join(SHIPPED)})")
@click.option("--out", metavar="FOLDER", help=f"of the weights (default: {EMBEDDED}; of a recipe: {OWN})")
@click.option("--restart", is_flag=True, help="replace what a recipe has left in the folder")
def train(names: tuple[str, ...], networks: tuple[str, ...], out: str | None, restart: bool) -> int:
    """Train the embedded networks, or others by recipes.

    A recipe is a file of conf/recipe; a training by one goes on where it ended. KEY=VALUE changes its data or network,
    as for run.py, or, as recipe.KEY=VALUE, the recipe.
    """
    from ..networks.recipe import recipes
    from ..networks.train import RECIPES

    folders = config_folders(searched())
    known = recipes(folders)
    chosen = [*networks, *(name for name in names if "=" not in name)] or SHIPPED
    words = [name for name in names if "=" in name]
    for name in chosen:
        if name not in {**RECIPES, **known}:
            raise ConfigError(suggest(name, {**RECIPES, **known}, "embedded network or recipe"))
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder for the weights")
    if embedded := [name for name in chosen if name not in known]:
        if words or restart:
            raise ConfigError(f"{(*words, '--restart')[0]}: {', '.join(embedded)} is trained in one way; for recipes")
        _train_embedded(embedded, Path(out or EMBEDDED))
    for name in [name for name in chosen if name in known]:
        check_one("recipe", name, folders)
        _train_by_recipe(known[name], words, Path(out or OWN), restart)
    return 0


def _train_embedded(names: Sequence[str], out: Path) -> None:
    from ..build import build
    from ..networks.train import train_embedded

    data = {}
    for split, size in SIZES.items():
        config = compose_config([*searched(), "dataset=scenes_train", f"dataset.split={split}", f"dataset.size={size}"])
        data[split] = build(config.dataset)
    for name in names:
        train_embedded(name, data["train"], data["val"], out)


def _train_by_recipe(path: Path, words: Sequence[str], out: Path, restart: bool) -> None:
    from ..networks.learning import learn
    from ..networks.recipe import read_recipe
    from ..networks.train import threads

    recipe = read_recipe(path, [word.removeprefix("recipe.") for word in words if word.startswith("recipe.")])
    given = [word for word in words if not word.startswith("recipe.")]
    keys = {word.split("=")[0] for word in given}
    if wrong := [word for word in given if word.lstrip("+~").split("=")[0] == "model.weights"]:
        raise ConfigError(f"{wrong[0]}: the weights that a training begins with are the recipe's: recipe.start=FILE")
    chosen = [word for word in recipe.words() if word.split("=")[0] not in keys]
    config = compose_config([*searched(), *chosen, *given])
    course, place = _course(path.stem, recipe, config), out / f"{path.stem}.safetensors"
    with threads(config.compute.threads):
        made = learn(course, place, restart)
    reached = ", ".join(f"{value:.4f} {name}" for name, value in made.reached.items())
    seconds = sum(each.seconds for each in made.history)
    print(wrapped(f"{path.stem}: accuracy {reached}; {len(made.history)} epochs, {seconds:.0f} s"))
    if recipe.stop_at is not None and made.history[-1].validation_accuracy < recipe.stop_at:
        print(f"caution: no epoch has reached stop_at={recipe.stop_at} on the validation set")
    print(f"{place.absolute()}: for model={config.model.name} model.weights=FILE")


def _course(name: str, recipe: "Recipe", config: RunConfig) -> "Course":
    """The training that a recipe and a config ask for, built."""
    from ..build import build
    from ..engine.request import pick_device
    from ..networks.learning import Course, Splits

    assert config.train is not None and config.validation is not None
    device = pick_device(config.compute.device)
    chosen = {"train": config.train, "validation": config.validation, "test": config.dataset}
    splits = Splits(**{place: _images(each, recipe.seed) for place, each in chosen.items()})
    network = build(config.model)
    settings = {**asdict(recipe), "start": network.fingerprint if recipe.start else None}
    model = {key: value for key, value in config.model.settings.items() if key not in ("weights", "sha256")}
    data = {f"{place} images": images.fingerprint() for place, images in splits._asdict().items()}
    about = {**settings, "network": model, **data}
    return Course(name, network, recipe, splits, about, device, config.compute.workers)


def _images(chosen: Choice, seed: int) -> "Dataset":
    """A data set, or as many of its images as its limit says, drawn by the seed."""
    from ..build import build
    from ..engine.samples import Checked

    whole = build(chosen)
    if chosen.limit is not None and chosen.limit < len(whole):
        share = {"start": 0.0, "stop": chosen.limit / len(whole), "seed": seed}
        whole = build(replace(chosen, settings={"_target_": PART, "whole": chosen.settings, **share}))
    return Checked(chosen.name, whole)
