"""Composing configs: everything in conf/ composes, and whatever is mistyped is answered with what was meant."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from assay.harness.arguments import take_allow_flag
from assay.harness.config import (
    CONF,
    LIST_GROUPS,
    Compute,
    ConfigError,
    RunConfig,
    Schema,
    groups,
    suggest,
)
from assay.harness.overrides import check_overrides, compose_config, sweep
from conftest import alone, every_choice
from omegaconf import OmegaConf

ROOT = CONF.parent
CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python elsewhere, with the checkout on its path as `run.py` sets it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


# What is in conf/


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=["=".join(pair) for pair in CHOICES])
def test_every_choice_composes(group: str, choice: str) -> None:
    """Each file of conf/ alone, on top of the defaults, passes the schema and all checks; every value resolves."""
    config = alone(group, choice)
    if group in LIST_GROUPS:
        assert list(getattr(config, group)) == [choice]


def test_the_default_config_composes() -> None:
    """`python run.py` without arguments is a complete run."""
    config = compose_config([])
    assert config.model.name == "scenes_vgg"
    assert config.limit is None


@pytest.mark.parametrize("group", ["model", "dataset", "protocol"])
def test_names_are_file_names(group: str) -> None:
    """`name:` is what tables show, so it must be what the user types, or say which of many was chosen (`${`)."""
    for choice in groups()[group]:
        named = re.findall(r"^name: (\S+)$", (CONF / group / f"{choice}.yaml").read_text(), re.M)
        assert len(named) == 1, f"conf/{group}/{choice}.yaml"
        assert named == [choice] or "${" in named[0], f"conf/{group}/{choice}.yaml"


@pytest.mark.parametrize("group", LIST_GROUPS)
def test_list_groups_are_packaged_by_their_own_name(group: str) -> None:
    """Without its `@package` line a second choice would silently merge into the first."""
    for choice in groups()[group]:
        first = (CONF / group / f"{choice}.yaml").read_text().splitlines()[0]
        assert first == f"# @package {group}.{choice}"


@pytest.mark.parametrize("group", LIST_GROUPS)
def test_no_choice_of_a_list_refers_to_another(group: str) -> None:
    """`${method.x.y}` would resolve only where x is chosen, too: what is looked at together is then not so alone."""
    found = {
        choice: re.findall(r"\$\{(\w+)", (CONF / group / f"{choice}.yaml").read_text()) for choice in groups()[group]
    }
    assert {word for words in found.values() for word in words} <= {
        "dataset",
        "input",
        "model",
        "oc",
        "results",
        "seed",
    }


@pytest.mark.parametrize("group", LIST_GROUPS)
def test_a_list_does_not_merge(group: str) -> None:
    """Choices of a group selected together are each what they are alone: here every tenth and the last, composed by
    themselves; that the others are packaged and refer to nothing beside them say the two tests above."""
    choices = groups()[group]
    together = getattr(every_choice(group), group)
    assert list(together) == choices
    for choice in {*choices[::10], choices[-1]}:
        assert together[choice] == getattr(compose_config([f"{group}=[{choice}]"]), group)[choice]


def test_overrides_reach_their_place() -> None:
    """A method's setting, a nested setting, top-level values, and adding what a mapping does not have yet."""
    config = compose_config(
        [
            *("method=[gradcam,smoothgrad]", "method.smoothgrad.samples=4", "dataset=imagenet"),
            *(
                "dataset.transform.mode=crop",
                "seed=3",
                "limit=7",
                "compute.batch_size=2",
                "+protocol.smooth.gradcam=0.1",
            ),
        ]
    )
    assert config.method["smoothgrad"].settings["samples"] == 4
    assert config.dataset.settings["transform"]["mode"] == "crop"
    assert (config.seed, config.limit, config.compute.batch_size) == (3, 7, 2)
    assert config.protocol.smooth == {"gradcam": 0.1}


# The data sets of detectors


def test_without_detectors_there_is_one_data_set() -> None:
    """The others are there to be chosen."""
    config = compose_config(["train.limit=5"])
    assert config.train is None
    assert config.validation is None
    assert config.ood == {}


def test_every_data_set_of_a_detector_has_its_settings() -> None:
    """Training, validation and OOD sets each in their place, set one by one; a limit is theirs alone."""
    config = compose_config(
        [
            *("dataset=cifar10_test5k", "dataset@train=cifar10_train", "dataset@validation=cifar10_val"),
            *("ood=[svhn,textures]", "train.root=/t", "train.limit=50", "validation.whole.root=/v", "ood.svhn.root=/s"),
        ]
    )
    train, validation, svhn = config.train, config.validation, config.ood["svhn"].settings
    assert train is not None and validation is not None
    assert (train.name, train.settings["root"], train.settings["split"]) == ("cifar10_train", "/t", "train")
    assert (validation.name, validation.settings["whole"]["root"]) == ("cifar10_val", "/v")
    assert (train.limit, validation.limit) == (50, None)
    assert list(config.ood) == ["svhn", "textures"]
    assert (svhn["root"], svhn["select"]) == ("/s", "first_1000_per_digit")
    assert "/s" not in (config.ood["textures"].settings["root"], config.dataset.settings["whole"]["root"])


def test_data_sets_take_over_the_runs_limit_unless_they_have_their_own() -> None:
    """`limit` of every scored set; of training and validation sets their own alone; own files are never cut."""
    data = [
        "dataset@train=scenes_train",
        "dataset@validation=scenes",
        "ood=[scenes_noise,files]",
        "ood.files.files=[x]",
    ]
    config = compose_config(["limit=7", "train.limit=3", "ood.files.files=[x]", *data])
    assert config.train is not None and config.validation is not None
    limits = (config.dataset, config.train, config.validation, config.ood["scenes_noise"], config.ood["files"])
    assert [each.limit for each in limits] == [7, 3, None, 7, None]
    assert all("limit" not in each.settings for each in limits)


@pytest.mark.parametrize(
    ("overrides", "size", "resize"),
    [
        (["dataset=cifar10"], 32, 32),
        (["dataset=imagenet"], 224, 256),
        (["dataset=imagenet", "dataset.transform.size=299", "dataset.transform.resize=320"], 299, 320),
        (["dataset=cifar10_jpeg_test5k"], 32, 32),  # a part: the transform is the whole's
        (["dataset=voc0712"], 224, 256),  # several as one
        (["dataset=scenes_hard"], 64, 64),  # drawn: no transform
        (["dataset=cifar10", "ood.svhn.transform.size=28"], 28, 32),
    ],
)
def test_ood_images_take_the_size_of_the_in_distribution_set(overrides: list[str], size: int, resize: int) -> None:
    """Resized and cropped as the network needs them, wherever the data set keeps its transform."""
    transform = compose_config(["ood=[svhn,inaturalist]", *overrides]).ood["svhn"].settings["transform"]
    assert (transform["mode"], transform["size"], transform["resize"]) == ("crop", size, resize)


def test_parts_of_unequal_sizes_give_ood_images_none() -> None:
    """Two sizes of one data set: neither is taken silently."""
    with pytest.raises(ConfigError, match=r"voc0712 differ in transform\.size"):
        compose_config(["dataset=voc0712", "ood=[svhn]", "dataset.parts.voc12.transform.size=300"])


@pytest.mark.parametrize("choice", groups()["ood"])
def test_ood_sets_are_named_by_their_file(choice: str) -> None:
    """The `dataset` column of an OOD row says what was typed."""
    assert alone("ood", choice).ood[choice].name == choice


# What is mistyped


@pytest.mark.parametrize(
    ("override", "mistyped", "meant"),
    [
        ("modle=resnet50", "'modle'", "model"),
        ("sed=1", "'sed'", "seed"),
        ("limt=3", "'limt'", "limit"),
        ("model=resnet5", "'resnet5'", "resnet50"),
        ("dataset=scene", "'scene'", "scenes"),
        ("protocol=standart", "'standart'", "standard"),
        ("method=gradcm", "'gradcm'", "gradcam"),
        ("method=[center,gradcm]", "'gradcm'", "gradcam"),
        ("metric=[pointinggame]", "'pointinggame'", "pointing_game"),
        ("experiment=imagenet_box", "'imagenet_box'", "imagenet_boxes"),
        ("method.gradcm.signed=true", "'gradcm'", "gradcam"),
        ("method.gradcam.layr=x", "method.gradcam.layr: 'layr'", "layer"),
        ("metric.pointing_game.tolerance=3", "metric.pointing_game.tolerance", "tolerance_px"),
        ("protocol.target=top1", "protocol.target: 'target'", "targets"),
        ("compute.batchsize=2", "compute.batchsize: 'batchsize'", "batch_size"),
        ("model.wieghts=x", "model.wieghts", "weights"),
        ("dataset.sise=3", "dataset.sise", "size"),
        ("dataset.transform.mod=crop", "dataset.transform.mod", "mode"),
        ("ood=[scenes_noise,svhm]", "'svhm'", "svhn"),
        ("ood.svhm.root=x", "'svhm'", "svhn"),
        ("ood.svhn.rot=x", "ood.svhn.rot: 'rot'", "root"),
        ("ood.svhn.transform.mod=crop", "ood.svhn.transform.mod: 'mod'", "mode"),
        ("dataset@train=cifar11", "'cifar11'", "cifar10"),
        ("train.limt=3", "train.limt: 'limt'", "limit"),
        ("validation.sed=1", "validation.sed: 'sed'", "seed"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(override: str, mistyped: str, meant: str) -> None:
    """Top-level keys, group choices, settings: the message names the wrong word and suggests the right one."""
    others = ["dataset=imagenet"] if "transform" in override else []
    others += ["dataset@train=cifar10", "dataset@validation=cifar10_val", "ood=[svhn]"][: 2 + ("ood." in override)]
    with pytest.raises(ConfigError) as caught:
        compose_config([*others, override])
    assert mistyped in str(caught.value)
    assert f"Did you mean {meant}" in str(caught.value) or f"or {meant}?" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("cache=foo", "cache=foo: choose one of missing, refresh, off, only"),
        ("precision=bfloat16", "precision=bfloat16: choose one of float32, float64"),
        ("protocol.targets=all", "protocol.targets=all: choose one of labels, predicted, top1"),
        ("compute.batch_size=0", "compute.batch_size=0: give a whole number of at least 1"),
        ("forward_precision=float16", "forward_precision=float16: choose one of same, bfloat16"),
        ("compute.memory_format=nhwc", "memory_format=nhwc: choose one of auto, contiguous, channels_last"),
        ("compute.shard_size=-1", "compute.shard_size=-1: give a whole number of at least 1"),
        ("compute.threads=0", "compute.threads=0"),
        ("compute.workers=-1", "compute.workers=-1"),
        ("compute.processes=0", "compute.processes=0"),
        ("compute.processes=many", "compute.processes=many"),
        ("limit=0", "limit=0: give a whole number of at least 1"),
        ("limit=half", "limit=half"),
        ("seed=x", "seed=x"),
        ("dry_run=perhaps", "dry_run=perhaps"),
        ("method=[]", "no method chosen: method=["),
        ("metric=[]", "no metric chosen: metric=["),
        ("model=[scenes_vgg]", "model=[...]: only method, metric, ood, sink take a list; sweep with -m model=a,b"),
        ("subset_seed=-1", "subset_seed=-1"),
        ("+protocol.smooth.gradcm=0.1", "protocol.smooth.gradcm: 'gradcm' is not a method. Did you mean gradcam"),
        ("train.limit=0", "train.limit=0: give a whole number of at least 1"),
        ("validation.root=x", "validation.root: no validation set is chosen: dataset@validation=NAME"),
        ("ood.svhn=3", "ood.svhn=3: name one of its settings"),
        ("ood.svhn.root=/x", "ood.svhn.root: svhn is not chosen: ood=[svhn]"),
        ("dataset@train=[cifar10]", "dataset=[...]: only method, metric, ood, sink take a list"),
        ("method.gradcam=3", "method.gradcam=3"),
        ("method=[gradcam", "method=[gradcam"),
    ],
)
def test_a_bad_value_is_named(override: str, named: str) -> None:
    """The message shows key and value as typed, and the valid ones."""
    with pytest.raises(ConfigError) as caught:
        compose_config([override])
    assert named in str(caught.value)


def test_an_unknown_device_is_named() -> None:
    """`compute.device` is checked where the device is picked."""
    from assay.harness.engine.request import pick_device

    with pytest.raises(ConfigError, match=r"compute.device=gpu"):
        pick_device("gpu")


def test_suggestions() -> None:
    """Near words are suggested, far ones are not; all valid ones are listed in order."""
    assert suggest("abd", ["xyz", "abc"], "word") == "'abd' is not a word. Did you mean abc? Valid: abc, xyz"
    assert suggest("qqq", ["xyz", "abc"], "word") == "'qqq' is not a word. Valid: abc, xyz"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "model=scenes_vgg,scenes_resnet", "seed=0,1"],
        ["-m", "method=[gradcam],[center,edges]", "seed=range(3)"],
        ["--cfg", "job", "model=resnet50"],
        ["hydra.verbose=true", "+model.anything=1", "++seed=3"],
        ["model@other=scenes_vgg", "~experiment"],
        ["-m", "ood=[svhn],[svhn,isun]", "dataset@train=cifar10_train,cifar100_train", "train.limit=5"],
        ["-sc", "install=bash"],
    ],
    ids=" ".join,
)
def test_hydras_own_arguments_pass(arguments: list[str]) -> None:
    """Sweeps, Hydra's flags and settings, additions: nothing of it is a typo."""
    check_overrides(arguments)


@pytest.mark.parametrize("override", ["model=scenes_vgg,scenes_resnt", "method=[gradcam],[centre]"])
def test_a_typo_in_a_sweep_is_found_before_its_first_job(override: str) -> None:
    """Every value of a sweep is checked, not the first."""
    with pytest.raises(ConfigError, match=r"Did you mean (scenes_resnet|center)"):
        check_overrides(["-m", override])


def test_a_folder_of_your_own_adds_choices(tmp_path: Path) -> None:
    """`--config-dir FOLDER` makes its files choices beside ours; without it they are unknown."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# @package method.mine\n_target_: mine.Method\nsteps: 3\n")
    ours = ["method=[mine,gradcam]", "method.mine.steps=4"]
    check_overrides(["--config-dir", str(tmp_path), *ours])
    check_overrides([f"--config-dir={tmp_path}", *ours])
    with pytest.raises(ConfigError, match="'mine' is not a method"):
        check_overrides(ours)
    with pytest.raises(ConfigError, match=r"method.mine.stps: .*Did you mean steps"):
        check_overrides(["--config-dir", str(tmp_path), "method.mine.stps=4"])


def test_the_allow_flag_is_taken_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both spellings, repeated, beside what the environment allows already; a flag without a value ends the program."""
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "already.")
    rest = take_allow_flag(["model=resnet50", "--allow-target", "one.", "-m", "--allow-target=two.", "seed=1"])
    assert rest == ["model=resnet50", "-m", "seed=1"]
    assert os.environ["ASSAY_ALLOW_TARGET"] == "already.,one.,two."
    for wrong in (["--allow-target"], ["--allow-target", "limit=3"]):
        with pytest.raises(ConfigError, match="needs a package's prefix"):
            take_allow_flag(wrong)


# The command line


def test_checking_and_composing_import_no_torch(tmp_path: Path) -> None:
    """Help, typos and composing answer before seconds of imports: nothing that run.py needs for them is heavy."""
    code = (
        "import sys, run\n"
        "from assay.harness.overrides import check_overrides, compose_config\n"
        "check_overrides(['model=resnet50'])\n"
        "compose_config(['limit=3'])\n"
        "print(sorted({'torch', 'torchvision', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_shows_groups_examples_and_the_other_command(tmp_path: Path) -> None:
    """`run.py --help` from any folder, without importing torch: every group, five examples, the other command."""
    done = python("-X", "importtime", str(ROOT / "run.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for group, choices in groups().items():
        assert f"{group}: {', '.join(choices)}" in done.stdout
    examples = [line for line in done.stdout.splitlines() if line.strip().startswith("python run.py")]
    assert len(examples) == 5
    assert "python -m harness --help" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert "torch" not in imported
    assert not list(tmp_path.iterdir())
    for line in examples:
        arguments = re.split(r"\s{2,}", line.strip().removeprefix("python run.py") + " ")[0].split()
        if "-m" in arguments:
            check_overrides(arguments)
        else:
            compose_config(arguments)


def test_a_typo_ends_the_program_with_one_line(tmp_path: Path) -> None:
    """Non-zero exit code, the suggestion on standard error, no traceback, no files."""
    done = python(str(ROOT / "run.py"), "modle=resnet50", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'modle' is not a top-level key. Did you mean model or")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_schema_field_is_in_the_composed_config() -> None:
    """The schema and conf/ name the same top-level keys and the same compute settings."""
    composed = OmegaConf.load(CONF / "compute" / "auto.yaml")
    assert {*composed, "slurm"} == {field.name for field in fields(Compute)}  # a cluster's: conf/compute/slurm.yaml
    assert {field.name for field in fields(Schema)} == {field.name for field in fields(RunConfig)}


def test_a_config_is_typed_behind_its_door() -> None:
    """What is misspelt is no field: strict mypy refuses it, and so does Python."""
    config = compose_config(["compute.workers=2"])
    assert type(config) is RunConfig and type(config.compute) is Compute
    assert config.compute.workers == 2
    assert not hasattr(config.compute, "wrokers")


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["limit=3"], [{"limit=3"}]),
        (["experiment=embedded", "limit=3"], [{"model=scenes_vgg"}, {"model=scenes_resnet"}]),
        (["seed=1,2", "limit=3,4"], [{f"seed={s}", f"limit={n}"} for s in (1, 2) for n in (3, 4)]),
    ],
)
def test_the_jobs_of_a_sweep(overrides: list[str], jobs: list[set[str]]) -> None:
    """One job without a sweep, one a value of an experiment's own sweep, and every combination of two swept keys."""
    found = sweep(overrides)
    assert len(found) == len(jobs)
    assert all(wanted <= set(job) for wanted, job in zip(jobs, found, strict=True))
    for job in found:
        compose_config(job)


@pytest.mark.parametrize("override", ["results=/x/run=1", "dataset.root=a b(c", "model.weights=x=y.pth"])
def test_an_override_that_hydra_cannot_parse_is_named_with_the_quotes_that_mend_it(override: str) -> None:
    """The word alone, not the whole command line; quoted as the message says, it composes."""
    with pytest.raises(ConfigError) as caught:
        compose_config(["limit=3", override, "dataset=imagenet"])
    assert str(caught.value).startswith(f"{override}: ") and "limit=3" not in str(caught.value)
    mended = re.search(r"quote it twice: '(.*)'$", str(caught.value))
    assert mended is not None
    config = compose_config(["limit=3", mended[1], "dataset=imagenet"])
    assert override.partition("=")[2] in (
        config.results,
        *config.dataset.settings.values(),
        *config.model.settings.values(),
    )


@pytest.mark.parametrize("experiment", ["ci_detectors", "cascade_embedded"])
def test_an_experiment_with_a_cascade_composes_without_it(experiment: str) -> None:
    """The second network that it chooses stands where the cascade looks for it, and is nobody's without one."""
    alone = compose_config([f"experiment={experiment}", "method=[msp]"])
    assert list(alone.method) == ["msp"]
    settings = compose_config([f"experiment={experiment}", "method=[cascade]"]).method["cascade"].settings
    assert settings["larger"]["_target_"].endswith("scenes_network") and settings["detector"] is not None
    other = ["method=[cascade]", "model@method.cascade.larger=resnet18"]
    assert "resnet18" in str(compose_config([f"experiment={experiment}", *other]).method["cascade"].settings)


@pytest.mark.parametrize(("experiment", "delta"), [("ood_imagenet", 0.8), ("ood_imagenet_mobilenet", 0.6)])
def test_lines_two_ways_have_the_same_settings(experiment: str, delta: float) -> None:
    """Table S.4 compares contributions, nothing else: with CIFAR-10's 90/90/1.0 the second row was another method."""
    methods = compose_config([f"experiment={experiment}", "method=[line,line_intgrad]"]).method
    one, other = ({**methods[name].settings, "contributions": ""} for name in ("line", "line_intgrad"))
    assert one == other and (one["p_activation"], one["p_weight"], one["delta"]) == (10, 10, delta)


@pytest.mark.parametrize("file", sorted((CONF / "table").glob("*.yaml")), ids=lambda path: path.stem)
def test_fill_commands_quote_their_brackets(file: Path) -> None:
    """As they stand in a shell: an unquoted [a,b] is a pattern there, and zsh refuses it."""
    for panel in yaml.safe_load(file.read_text())["panels"]:
        words = str(panel.get("fill", "")).split("'")
        assert not any(
            letter in plain for plain in words[::2] for letter in "[]{}" if "{" not in plain or letter in "[]"
        )
