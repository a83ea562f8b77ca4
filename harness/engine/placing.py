"""Layers that a config leaves to the network (`auto.target`): their names, once the network is built.

A network that can say it has `places`. From here on configs hold the layers' own names, so that keys are those of a
config that names them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import Choice, ConfigError, RunConfig
from ..network import Network

AUTO = "auto."


def placed(config: RunConfig, network: Network) -> RunConfig:
    """The config with the network's layers where methods and metrics ask for `auto.target`, ...; the same without any.

    Raises:
        ConfigError: the network does not say the layer.
    """
    method = {name: _placed(choice, network, config.model.name) for name, choice in config.method.items()}
    metric = {name: _placed(choice, network, config.model.name) for name, choice in config.metric.items()}
    return replace(config, method=method, metric=metric)


def _placed(choice: Choice, network: Network, model: str) -> Choice:
    """The choice itself where it leaves nothing to the network."""
    asked = set(_autos(choice.settings))
    if missing := sorted(asked - network.places.keys()):
        known = ", ".join(f"{place} ({layer})" for place, layer in network.places.items()) or "no layer by itself"
        raise ConfigError(
            f"{choice} reads {missing[0]}, and of {model}, a {type(network.module).__name__}, is known: {known}. Name "
            f"it: model.{missing[0].removeprefix(AUTO)}_layer=LAYER (a wrong name answers with near ones)"
        )
    return replace(choice, settings=_named(choice.settings, network.places)) if asked else choice


def _autos(settings: Any) -> list[str]:
    if isinstance(settings, dict):
        return [each for value in settings.values() for each in _autos(value)]
    if isinstance(settings, list):
        return [each for value in settings for each in _autos(value)]
    return [settings] if isinstance(settings, str) and settings.startswith(AUTO) else []


def _named(settings: Any, places: Mapping[str, str]) -> Any:
    if isinstance(settings, dict):
        return {key: _named(value, places) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_named(value, places) for value in settings]
    return places.get(settings, settings) if isinstance(settings, str) else settings
