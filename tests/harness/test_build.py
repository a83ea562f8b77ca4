"""From configs to objects: what may be named, and errors that name what does not fit."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import pytest
from assay.datasets.images import Transform
from assay.harness.arguments import take_allow_flag
from assay.harness.build import ALLOW_VARIABLE, build, check
from assay.harness.config import LIST_GROUPS, Choice, ConfigError, groups
from assay.harness.overrides import compose_config
from assay.harness.values import check_type, shown
from assay.methods.attribution.shapley import ShapCAM
from conftest import alone

TRANSFORM = "assay.datasets.images.Transform"


def made(target: Any, **arguments: Any) -> Any:
    """What the config of a dataset builds."""
    return build(Choice("dataset", "toy", {"_target_": target, **arguments}))


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)


def composed(group: str, choice: str) -> Choice:
    """One choice as composed."""
    chosen = getattr(alone(group, choice), group)
    return chosen[choice] if group in LIST_GROUPS else chosen


ASKED = {"full_spectrum": {"shifted": ["corrupted_noise"]}}
CHOICES = [(g, choice) for g in ("model", "dataset", "ood", "method", "metric") for choice in groups()[g]]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(pair) for pair in CHOICES])
def test_every_config_fits_its_class(group: str, choice: str) -> None:
    """`_target_` exists where it says; its parameters are those given or have defaults, and take values like these."""
    check(composed(group, choice))
    arguments = dict(composed(group, choice).settings)
    module, _, name = arguments.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    assert target.__module__ == module
    inspect.signature(target).bind(**arguments)


@pytest.mark.parametrize("choice", groups()["method"])
def test_every_method_builds_with_a_version(choice: str) -> None:
    """Methods need no data and no weights to be built; each carries the VERSION that its results are keyed by."""
    method = build(composed("method", choice))
    assert isinstance(method.VERSION, int)
    method.needs()


@pytest.mark.parametrize("choice", groups()["metric"])
def test_every_metric_builds_with_a_version(choice: str) -> None:
    """The same of metrics, with their paired columns, and with what has no default that fits every run."""
    settings = composed("metric", choice).settings | ASKED.get(choice, {})
    metric = build(Choice("metric", choice, settings))
    assert isinstance(metric.VERSION, int)
    assert all(isinstance(column, str) for column in getattr(metric, "PAIRED", ()))


def test_settings_are_resolved_and_annotations_left_out() -> None:
    """Interpolations become values; what other configs or tables read is no constructor argument."""
    config = compose_config(["method=[gradcam]", "metric=[pointing_game]", "model.target_layer=features.3"])
    assert config.method["gradcam"].settings["layer"] == "features.3"
    assert "target_layer" not in config.model.settings and config.model.notes["target_layer"] == "features.3"
    assert "tolerance_px" not in config.dataset.settings
    tolerance = config.metric["pointing_game"].settings["tolerance_px"]
    assert tolerance == config.dataset.notes["tolerance_px"]


def test_objects_are_built_nested() -> None:
    """Lists and mappings arrive as plain Python, and a nested `_target_` is built too."""
    assert made(TRANSFORM, mode="shorter", size=64) == Transform("shorter", 64)
    of = {"_target_": "assay.metrics.shap_cosine.ShapCosine", "name": "toy"}
    truth = {"_target_": "assay.methods.attribution.shapley.ShapCAM", "layer": "features.0"}
    assert build(Choice("metric", "shap_cosine", of | {"reference": truth})).reference == ShapCAM("features.0")


# What may be named


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.run", "builtins.eval", "assay.harness.store.store.Lock", "methodsx.y", 3, None]
)
def test_code_outside_the_project_is_refused(target: Any) -> None:
    """Whatever is not under an allowed package, at the top ..."""
    with pytest.raises(ConfigError, match=r"dataset toy: _target_ .* is outside assay.methods. .*--allow-target"):
        made(target, command="echo")


@pytest.mark.parametrize("place", [{"mode": 0}, {"mode": {"deep": [1, {"er": 0}]}}], ids=["argument", "deep"])
def test_code_outside_the_project_is_refused_nested(place: dict[str, Any], tmp_path: Path) -> None:
    """... and anywhere below; nothing is run before it is refused."""
    evil = {"_target_": "os.mkdir", "path": str(tmp_path / "owned")}

    def planted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: planted(v) for key, v in value.items()}
        if isinstance(value, list):
            return [planted(v) for v in value]
        return evil if value == 0 else value

    with pytest.raises(ConfigError, match=r"'os.mkdir' is outside"):
        made(TRANSFORM, **planted(place))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "target",
    [
        "assay.harness.networks.loading.torch.serialization.os.mkdir",  # reaches os.system as well
        "assay.datasets.images.Path.mkdir",
        "assay.datasets.images.hashlib.sha256",
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_code_reached_through_an_allowed_module_is_refused(target: str, nested: bool, tmp_path: Path) -> None:
    """A module's imports are not its own: `assay.harness.networks.loading.torch...os.system` is `os.system`."""
    evil = {"_target_": target, "_args_": [str(tmp_path / "owned")]} if nested else {"_target_": target}
    with pytest.raises(ConfigError, match="is outside"):
        if nested:
            made(TRANSFORM, mode=evil)
        else:
            made(target, **({} if "hashlib" in target else {"path": str(tmp_path / "owned")}))
    assert not (tmp_path / "owned").exists()


def test_only_the_user_allows_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment or the flag opens a package; no key of a config does."""
    arguments = {"numerator": 6, "denominator": 4}
    for key in (ALLOW_VARIABLE, "allow_target", "allow-target", "_allow_target_"):
        with pytest.raises(ConfigError, match="is outside"):
            made("fractions.Fraction", **arguments, **{key: "fractions."})
    monkeypatch.setenv(ALLOW_VARIABLE, "my_package.,fractions.")
    assert made("fractions.Fraction", **arguments) == 1.5
    monkeypatch.setenv(ALLOW_VARIABLE, "")
    with pytest.raises(ConfigError, match="is outside"):
        made("fractions.Fraction", **arguments)
    assert take_allow_flag(["--allow-target", "fractions.", "x"]) == ["x"]
    assert made("fractions.Fraction", **arguments) == 1.5


# What does not fit


def test_unknown_settings_are_answered_with_near_ones() -> None:
    """The message names group, choice, setting, class, and what was meant."""
    with pytest.raises(ConfigError, match=rf"dataset toy: 'sise' is not a setting of {TRANSFORM}. Did you mean .*size"):
        made(TRANSFORM, sise=3)


def test_unknown_nested_settings_are_answered_with_near_ones() -> None:
    """A nested class is checked as the outer one is."""
    with pytest.raises(ConfigError, match=r"'sise' is not a setting.*Did you mean .*size"):
        made(TRANSFORM, mode={"_target_": TRANSFORM, "sise": 3})


def test_missing_settings_are_listed() -> None:
    """All of them, before anything is built."""
    with pytest.raises(ConfigError, match=r"dataset toy: assay.datasets.imagenet.ImageNet needs root"):
        made("assay.datasets.imagenet.ImageNet")


def test_a_config_without_a_class_says_so() -> None:
    """As left by an override of a method that is not selected."""
    with pytest.raises(ConfigError, match=r"dataset toy has no _target_"):
        build(Choice("dataset", "toy", {"size": 3}))


@pytest.mark.parametrize(
    "target",
    ["assay.methods.nowhere.Method", "assay.datasets.images.Nothing", "assay.harness.networks.loading.nothing"],
)
def test_a_class_that_is_not_there_is_named(target: str) -> None:
    """A wrong module and a wrong name in a right module."""
    with pytest.raises(ConfigError, match=f"dataset toy: _target_ '{target}' cannot be imported"):
        made(target)


def test_a_constructors_own_complaint_is_shown() -> None:
    """A value that the class refuses: its message, with group and choice before it, and the cause kept."""
    with pytest.raises(ConfigError, match=r"^dataset toy: transform.mode='stretch': choose squash") as caught:
        made(TRANSFORM, mode="stretch")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ConfigError, match=r"^dataset toy: no ImageNet images at"):
        made("assay.datasets.imagenet.ImageNet", root="/nowhere")


# Values and types


class Shape(NamedTuple):
    """Some types of parameters."""

    number: int
    share: float
    flag: bool
    name: str
    place: Path
    maybe: int | None
    word: Literal["one", "two"]
    pair: tuple[int, int]
    many: Sequence[float]
    table: Mapping[str, int]
    either: Literal["auto"] | float
    inner: Transform
    anything: Any


@pytest.mark.parametrize(
    ("name", "good", "bad", "wanted"),
    [
        ("number", [1, -3], [1.5, True, "1", None, [1]], "a whole number"),
        ("share", [1, 0.5], [True, "0.5", None], "a number"),
        ("flag", [True], [1, "true", None], "true or false"),
        ("name", ["x", ""], [1, None, ["x"]], "a text"),
        ("place", ["/x"], [1, None], "a path"),
        ("maybe", [1, None], ["1", 0.5], "a whole number or null"),
        ("word", ["one"], ["three", 1, None], "one of one, two"),
        ("pair", [[1, 2]], [[1], [1, 2, 3], [1, "2"], 1, "12"], "a list [a whole number, a whole number]"),
        ("many", [[], [1, 0.5]], [1, "12", [None], {"a": 1}], "a list of a number"),
        ("table", [{}, {"a": 1}], [[1], {"a": "1"}, None], "a mapping (name: value)"),
        ("either", ["auto", 0.5], ["x", None], "one of auto or a number"),
        ("inner", [{"_target_": TRANSFORM}], [1, "x", None, {"size": 3}], "a mapping with a _target_ (Transform)"),
        ("anything", [1, None, "x", [1], {"a": [1]}], [], ""),
    ],
)
def test_a_value_is_of_its_parameters_type(name: str, good: list[Any], bad: list[Any], wanted: str) -> None:
    """What YAML has of each type; everything else is refused by key, value and what is wanted."""
    hint = get_type_hints(Shape)[name]
    for value in good:
        check_type(f"method.x.{name}", value, hint)
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            check_type(f"method.x.{name}", value, hint)
        assert str(caught.value) == f"method.x.{name}={shown(value)}: give {wanted}"


def test_a_nested_object_is_of_any_type() -> None:
    """What a `_target_` makes is known when it is made."""
    check_type("x", {"_target_": TRANSFORM}, int)


def test_what_is_escaped_is_text(tmp_path: Path) -> None:
    """A second reading of a value would find code in it: `\\${...}` stays what it says."""
    code = f"${{oc.create:{{_target_: os.mkdir, path: {tmp_path}/owned}}}}"
    with pytest.raises(ConfigError, match=r"\$\{oc.create"):
        made(TRANSFORM, mode=code)
    assert not (tmp_path / "owned").exists()


class Takes:
    """Any keyword."""

    def __init__(self, size: int, **more: int) -> None:
        self.size, self.more = size, more


def test_a_class_with_any_keyword_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters of other libraries forward settings (`**more`)."""
    monkeypatch.setenv(ALLOW_VARIABLE, "test_build.")
    assert made("test_build.Takes", size=3, other=4).more == {"other": 4}
