"""How a network is trained: the files of conf/recipe/, read and checked. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ..config import ConfigError, suggest

OPTIMIZERS = ("sgd", "adam")


@dataclass
class Augmentation:
    """What is done to an image [3,H,W] each time that it is seen; zeros do nothing.

    pad: black pixels around it, of which a window of its own size is cut at random. flip: how often it is mirrored.
    rotate: largest angle in degrees. shift: largest move, as a share of the side. shear: largest tangent of the angle
    by which columns lean. zoom: largest change of size, as a share. What comes into view repeats the edge.
    """

    pad: int = 0
    flip: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0


@dataclass
class Recipe:
    """With the data, everything that decides a network's weights (on one machine).

    model, dataset (test), train, validation: files of conf/. start: weights to begin from, a file or a published name,
    whose last layer makes way for a new one; null: new parameters. optimizer: sgd or adam. drops: shares of the epochs
    after which the learning rate is multiplied by drop_factor. stop_at: validation accuracy that ends the training
    before the last epoch; null: none does.
    """

    model: str = MISSING
    dataset: str = MISSING
    train: str = MISSING
    validation: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    optimizer: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    drops: list[float] = field(default_factory=list)
    drop_factor: float = 0.1
    start: str | None = None
    stop_at: float | None = None
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        dropped = sum(epoch >= round(share * self.epochs) for share in self.drops)
        return self.learning_rate * self.drop_factor**dropped

    def words(self) -> list[str]:
        """The overrides that choose the network and the data sets."""
        start = "null" if self.start is None else self.start
        sets = [f"dataset={self.dataset}", f"dataset@train={self.train}", f"dataset@validation={self.validation}"]
        return [f"model={self.model}", f"model.weights={start}", *sets]


def recipes(folders: Sequence[Path]) -> dict[str, Path]:
    """The files by name; of one name, the first folder's."""
    found = [path for folder in folders for path in sorted((folder / "recipe").glob("*.yaml"))]
    return {path.stem: path for path in reversed(found)}


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """A file of conf/recipe/, with `SETTING=VALUE` changed.

    Raises:
        ConfigError: an unknown setting, one that is missing or of another type, or a value that trains nothing.
    """
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(changes)))
        recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), given))
    except ConfigKeyError as error:
        inner = Augmentation if "augmentation" in str(error.full_key) else Recipe
        known = [each.name for each in fields(inner)]
        raise ConfigError(f"recipe {path.stem}: {suggest(str(error.key), known, 'setting of a recipe')}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"recipe {path.stem}: {str(error).splitlines()[0]}") from error
    assert isinstance(recipe, Recipe)
    for wrong, why in _limits(recipe):
        if wrong:
            raise ConfigError(f"recipe {path.stem}: {why}")
    return recipe


def _limits(recipe: Recipe) -> list[tuple[bool, str]]:
    """What the types cannot express: whether it is broken, and what to give."""
    seen = recipe.augmentation
    shares = {"flip": seen.flip, "shift": seen.shift, "shear": seen.shear, "zoom": seen.zoom}
    wrong = {name: value for name, value in shares.items() if not 0 <= value <= (1 if name == "flip" else 0.9)}
    return [
        (recipe.optimizer not in OPTIMIZERS, suggest(recipe.optimizer, OPTIMIZERS, "optimizer")),
        (recipe.epochs < 1, f"epochs={recipe.epochs}: give at least 1"),
        (recipe.batch_size < 2, f"batch_size={recipe.batch_size}: give at least 2, for the statistics of a batch"),
        (not recipe.learning_rate > 0, f"learning_rate={recipe.learning_rate}: give a rate above 0"),
        (not 0 <= recipe.momentum < 1, f"momentum={recipe.momentum}: give a share from 0 to below 1"),
        (recipe.nesterov and not recipe.momentum, "nesterov=true without momentum: give one above 0"),
        (recipe.weight_decay < 0, f"weight_decay={recipe.weight_decay}: give 0 or more"),
        (not all(0 < each < 1 for each in recipe.drops), f"drops={recipe.drops}: give shares of the epochs, 0 to 1"),
        (not 0 <= (recipe.stop_at or 0) <= 1, f"stop_at={recipe.stop_at}: give an accuracy from 0 to 1, or null"),
        (bool(wrong), f"augmentation {wrong}: give shares, flip up to 1, the others up to 0.9"),
        (seen.pad < 0 or not 0 <= seen.rotate <= 180, f"augmentation pad={seen.pad}, rotate={seen.rotate}: give 0 up"),
        (recipe.seed < 0, f"seed={recipe.seed}: give 0 or more"),
    ]
