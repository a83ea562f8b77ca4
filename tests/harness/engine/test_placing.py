"""Layers that a config leaves to the network are its own in everything behind the door."""

from pathlib import Path

import pytest
from assay.harness.attribution.plan import plan
from assay.harness.config import ConfigError
from assay.harness.engine.placing import placed
from assay.harness.engine.request import Request
from assay.harness.launch import build_run
from assay.harness.network import Network
from assay.harness.networks import loading
from assay.harness.overrides import compose_config

WORDS = ["model=scenes_vgg", "method=[gradcam,center]", "metric=[pointing_game]", "limit=4", "compute.device=cpu"]
AUTO = [*WORDS, "model.target_layer=auto.target"]


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> str:
    """The embedded networks say their target layer, which is the preset's own."""
    layer = str(compose_config(WORDS).model.notes["target_layer"])

    def made(*arguments: object, **settings: object) -> Network:
        network = original(*arguments, **settings)  # type: ignore[arg-type]
        network.places = {"auto.target": layer}
        return network

    original = loading.scenes_network
    made.__annotations__.update(original.__annotations__)
    made.__module__, made.__qualname__ = original.__module__, original.__qualname__
    made.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(loading, "scenes_network", made)
    return layer


def test_keys_and_methods_are_those_of_a_config_that_names_the_layer(saying: str, tmp_path: Path) -> None:
    named, left = (plan(Request.of(compose_config(words), tmp_path)) for words in (WORDS, AUTO))
    assert [cell.store.key for cell in left.cells] == [cell.store.key for cell in named.cells]
    assert left.request.methods["gradcam"].layer == saying
    assert left.request.config.method["center"] is not None
    made = build_run(compose_config(AUTO), tmp_path)  # which has built the methods before the network
    assert made.request.methods["gradcam"].layer == saying


def test_nothing_left_nothing_changed() -> None:
    config = compose_config(WORDS)
    network = Request.of(config, Path("unused")).network
    assert placed(config, network).method["gradcam"] is config.method["gradcam"]


def test_a_layer_that_the_network_does_not_say_is_named() -> None:
    said = (
        r"method gradcam reads auto\.target, and of scenes_vgg, a ScenesVGG, is known: no layer by itself\. Name it: "
    )
    with pytest.raises(ConfigError, match=said + r"model\.target_layer=LAYER"):
        Request.of(compose_config(AUTO), Path("unused"))
