"""Compositions that are kept: Hydra's own, whatever is set on top, and never of files that have changed since."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from assay.harness import composing
from assay.harness.composing import composed
from assay.harness.config import CONF, ConfigError, register_schema
from assay.harness.overrides import check_jobs, compose_config
from assay.harness.plugins import installed
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from plugin_site import forget_example, install_example

METHOD = "# @package method.mine\n_target_: assay.methods.attribution.floors.Center\nsteps: {}\n"
COMMANDS = [
    (),
    ("seed=3", "limit=2", "results=/x"),
    ("experiment=embedded", "compute.batch_size=2", "compute=auto"),
    ("experiment=ood_embedded", "~ood.scenes_noise", "train.limit=5"),
    ("model=resnet50", "method=[rap,gradcam]", "model.weights=w", "method.gradcam.layer='${model.target_layer}'"),
    ("+protocol.smooth.rap=.1", "++protocol.smooth={rap: .2}", "protocol={targets: top1}", "compute={threads: 2}"),
    ("dataset@train=scenes_train", "~experiment", "~seed", "hydra.mode=MULTIRUN", "hydra.job.name=x"),
    ("limit=1", "limit=2", "+a.b=1", "+a={c: 2}"),
    ("method=[gradcam]", "method.gradcam.layer=a", "+method={gradcam: {layer: b}}", "compute.threads=1"),
    ("compute.threads=1", "+compute={threads: 2}", "protocol.targets=labels", "+protocol={targets: top1}"),
]


@pytest.fixture
def composings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """What Hydra is asked to compose during a test that begins with nothing kept."""
    asked: list[list[str]] = []

    def noted(name: str, overrides: list[str], return_hydra_config: bool) -> DictConfig:
        asked.append(overrides)
        return compose(name, overrides, return_hydra_config)

    composing._kept.cache_clear()
    monkeypatch.setattr(composing, "compose", noted)
    yield asked
    composing._kept.cache_clear()


def plain(config: DictConfig) -> object:
    """References as they stand, without what Hydra notes of the command line."""
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    hydra = content["hydra"]
    del hydra["overrides"], hydra["job"]["override_dirname"]
    return content


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_it_is_hydras_own(words: tuple[str, ...], composings: list[list[str]]) -> None:
    """Read, and from what was kept of the first time; what is done to one composition is in no other."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        expected = compose("config", list(words), return_hydra_config=True)
    first = composed(words, [CONF])
    assert plain(first) == plain(expected)
    OmegaConf.set_struct(first, False)
    first.model.name = first.protocol.targets = first.hydra.job.name = "changed"
    second = composed(words, [CONF])
    assert plain(second) == plain(expected)
    for flag in ("struct", "readonly"):
        assert [second._get_flag(flag), second.hydra._get_flag(flag)] == [
            expected._get_flag(flag),
            expected.hydra._get_flag(flag),
        ]
    assert len(composings) == 1


def test_what_is_set_reads_no_file_again(composings: list[list[str]]) -> None:
    """Jobs of a sweep over values, and a nested key's check, compose what the choices give once."""
    check_jobs(["-m", "model=scenes_resnet", "seed=0,1,2", "model.weights=a,b", "compute.threads=1,2"])
    assert [words for words in composings if "hydra.mode=MULTIRUN" not in words] == [["model=scenes_resnet"]]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sed=1", "sed"),
        ("model@x=resnet50", "model@x"),
        ("limit=[1]", "limit"),
        ("+experiment=embedded", "experiment"),
        ("hydra.callbacks={a: {_target_: os.system}}", "hydra.callbacks"),
        ("compute.slurm.partition={a: 1}", "compute.slurm.partition"),
    ],
)
def test_what_cannot_be_composed_is_refused_each_time(word: str, said: str) -> None:
    """By Hydra, the schema or the check of Hydra's node, with the key, also on top of choices that are kept."""
    for _ in range(2):
        composed((), [CONF])
        with pytest.raises(ConfigError, match=said):
            composed((word,), [CONF])


def test_code_that_a_value_names_by_a_reference_is_refused() -> None:
    """What a launcher's setting refers to is set afterwards: it is looked at with what is set."""
    words = ("+hydra.launcher.more={_target_: '${results}'}", "results=os.system")
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.more\._target_=os\.system"):
        composed(words, [CONF])


def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    """In a user's folder: edited, added, taken away."""
    file = tmp_path / "method" / "mine.yaml"
    file.parent.mkdir()
    words = ["--config-dir", str(tmp_path), "method=[mine]"]
    for steps in (1, 2):
        file.write_text(METHOD.format(steps))
        assert compose_config(words).method["mine"].settings["steps"] == steps
    file.unlink()
    with pytest.raises(ConfigError, match="'mine' is not a method"):
        compose_config(words)


def test_files_of_plugins_that_change_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composings: list[list[str]]
) -> None:
    """In a folder that every command knows, whose compositions are kept: an edit of equal length, a file beside it."""
    install_example(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (plugin,) = installed()
    assert plugin.conf is not None
    file = plugin.conf / "method" / "mine.yaml"
    for steps in (1, 2):
        file.write_text(METHOD.format(steps))
        for _ in range(2):
            assert compose_config(["method=[mine]"]).method["mine"].settings["steps"] == steps
    assert len(composings) == 2
    (plugin.conf / "method" / "other.yaml").write_text(METHOD.format(3))
    compose_config(["method=[mine]"])
    assert len(composings) == 3
    forget_example()


def test_commands_without_a_plugin_do_not_take_what_was_composed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders are part of what is kept."""
    install_example(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (plugin,) = installed()
    assert plugin.conf is not None
    (plugin.conf / "method" / "mine.yaml").write_text(METHOD.format(1))
    assert list(compose_config(["method=[mine]"]).method) == ["mine"]
    monkeypatch.setenv("ASSAY_PLUGINS", "none")
    with pytest.raises(ConfigError):
        composed(["method=[mine]"], [CONF])
    forget_example()
