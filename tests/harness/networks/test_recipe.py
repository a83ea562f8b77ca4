"""Recipes: the files of conf/recipe/ name what is there, and what trains nothing is refused."""

import re

import pytest
from assay.harness.config import CONF, ConfigError, groups
from assay.harness.networks.recipe import Recipe, read_recipe, recipes

FILES = recipes([CONF])


def recipe(*changes: str) -> Recipe:
    return read_recipe(FILES["cifar_densenet_bc100"], changes)


@pytest.mark.parametrize("name", FILES)
def test_a_recipe_names_configs_that_are_there(name: str) -> None:
    """Its network and three data sets."""
    made, known = read_recipe(FILES[name]), groups()
    assert made.model in known["model"]
    assert {made.dataset, made.train, made.validation} <= set(known["dataset"])


def test_rates_by_hand() -> None:
    """100 epochs from 0.1, a tenth after 50, 75 and 90; another length, other epochs."""
    rates = [recipe().rate(epoch) for epoch in (0, 49, 50, 74, 75, 89, 90, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    assert [recipe("epochs=4").rate(epoch) for epoch in range(4)] == pytest.approx([0.1, 0.1, 0.01, 1e-3])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("epoch=3", "'epoch' is not a setting of a recipe. Did you mean epochs"),
        ("augmentation.flp=1", "Did you mean flip?"),
        ("optimizer=lion", "Valid: adam, sgd"),
        ("epochs=x", "could not be converted to Integer"),
        ("epochs=0", "epochs=0: give at least 1"),
        ("batch_size=1", "batch_size=1: give at least 2"),
        ("learning_rate=0", "learning_rate=0.0: give a rate above 0"),
        ("learning_rate=nan", "learning_rate=nan: give a rate above 0"),
        ("momentum=1", "momentum=1.0"),
        ("momentum=0", "nesterov=true without momentum"),
        ("weight_decay=-1", "weight_decay=-1.0"),
        ("drops=[2]", r"drops=[2.0]: give shares"),
        ("stop_at=82.9", "stop_at=82.9: give an accuracy from 0 to 1"),
        ("augmentation.flip=2", "augmentation {'flip': 2.0}"),
        ("augmentation.zoom=1", "augmentation {'zoom': 1.0}"),
        ("augmentation.pad=-1", "pad=-1"),
        ("seed=-1", "seed=-1"),
    ],
)
def test_what_trains_nothing_is_refused(change: str, says: str) -> None:
    """Naming the recipe, the setting, its value and what to give."""
    with pytest.raises(ConfigError, match=f"recipe cifar_densenet_bc100: .*{re.escape(says)}"):
        recipe(change)
