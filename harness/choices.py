"""A setting that is one of a few words."""

from collections.abc import Collection


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError, with the choices, unless the value is one of them."""
    if value not in choices:
        raise ValueError(f"{setting}={value!r}: choose one of {', '.join(choices)}")
