"""What is asked for, built: devices, images, and what is odd about them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution.plan import build_job
from assay.harness.config import Choice, ConfigError
from assay.harness.engine.request import Images, Request, image_order, pick_device
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.types import Attribution, Sample
from assay.methods.attribution.floors import Center

SMALL = ["limit=6", "method=[center]", "compute.device=cpu", "compute.processes=1"]


def request_of(root: Path, *overrides: str) -> Request:
    """A small request, built."""
    return Request.of(compose_config([*SMALL, *overrides]), root)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is what there is; under torchrun each process takes the GPU of its local rank, and they share if few."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"sees no GPU; use compute\.device=cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")


def test_the_first_images_of_an_order(tmp_path: Path) -> None:
    """The data set's own order or a seed's; the split says which images, as results.csv shows it."""
    request = request_of(tmp_path)
    scenes = compose_config(SMALL).dataset
    plain, mixed = Images.of(request, scenes, None), Images.of(request, scenes, 3)
    assert plain.order.tolist() == list(range(300)) and plain.stop == 6
    assert np.array_equal(mixed.order, image_order(300, 3))
    assert sorted(mixed.order.tolist()) == list(range(300)) and not np.array_equal(mixed.order, plain.order)
    assert (plain.split, mixed.split) == ("test[:6]", "test[:6]@seed3")
    assert (plain.title, Images.of(request, compose_config(["limit=300"]).dataset, None).title) == (
        "scenes test[:6]",
        "scenes",
    )


def test_a_data_set_without_samples_is_refused(tmp_path: Path) -> None:
    """Before anything is computed."""

    class Nothing:
        classes, split = ("a",), "test"

        def __len__(self) -> int:
            return 0

    with pytest.raises(ConfigError, match="dataset nothing has no samples"):
        Images.of(request_of(tmp_path), Choice("dataset", "nothing", {}, made=Nothing()), None)


def test_a_size_that_the_weights_were_not_made_for_is_said(tmp_path: Path) -> None:
    """Scenes have 64 pixels: said of a network of 224, not of one of 64, nor of one that nobody knows it of."""
    images = build_job(compose_config(SMALL), tmp_path).images
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    body(torch.zeros(1, 3, 64, 64))
    plain, fits, other = (Network(body, [0.5] * 3, [1] * 3, input_size=s) for s in (None, (64, 64), (224, 224)))
    assert images.cautions(plain) == images.cautions(fits) == []
    assert images.cautions(other) == [
        "scenes: images of (64, 64) pixels; the network's weights were made for (224, 224) (height, width)"
    ]


class Sorted:
    """Three classes of forty images, one after the other; none looked at without need."""

    classes, split = ("cat", "dog", "owl"), "test"

    def __init__(self, unreadable: int = -1) -> None:
        self.loaded: list[int] = []
        self.unreadable = unreadable

    def __len__(self) -> int:
        return 120

    def __getitem__(self, index: int) -> Sample:
        self.loaded.append(index)
        if index == self.unreadable:
            raise ValueError("no image")
        return Sample(str(index), torch.zeros(3, 4, 4), (index // 40,), (4, 4))

    def fingerprint(self) -> str:
        return "sorted"


def test_a_limited_run_that_sees_one_class_says_so(tmp_path: Path) -> None:
    """The first forty of a folder are all cats; with one dog, at random or with all images nothing is said."""
    request, network = request_of(tmp_path), Network(torch.nn.Flatten(), [0.5], [1])

    def said(limit: int | None, seed: int | None = None, unreadable: int = -1) -> list[str]:
        chosen = Choice("dataset", "pets", {}, limit=limit, made=Sorted(unreadable))
        return Images.of(request, chosen, seed).cautions(network)

    assert said(40) == [
        "pets test[:40]: all 32 images that were looked at are of one class, cat, of 3: a data set sorted by class? "
        "subset_seed=0 draws from all of it"
    ]
    assert len(said(3)) == 1
    assert said(41) == said(1) == said(None) == said(120) == said(40, seed=0) == []
    assert said(40, unreadable=39) == []  # the loop names it, and what else cannot be read
    few = Sorted()
    Images.of(request, Choice("dataset", "pets", {}, limit=41, made=few), None).cautions(network)
    assert few.loaded == [0, 40]


def test_torchvisions_weights_know_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file of weights as well; random ones were made for nothing. The plan says it."""
    from torchvision import models

    file = tmp_path / "squeezenet1_1.pth"
    torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), file)
    choice = ["model=squeezenet1_1", "method=[gradient]", "dry_run=true", f"results={tmp_path}"]
    for weights, cautions in ((file, 1), ("null", 0)):
        assert launch.run(compose_config([*SMALL, *choice, f"model.weights={weights}"]), []) == 0
        assert capsys.readouterr().out.count("caution: scenes: images of (64, 64) pixels") == cautions


def test_a_record_says_deterministic_only_when_nothing_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same run, then with a method that calls an operation without a deterministic kernel."""

    def records() -> list[bool]:
        found = sorted((tmp_path / "runs").glob("*/*.json"), key=lambda path: path.stem)
        return [json.loads(path.read_text())["deterministic"] for path in found]

    config = compose_config([*SMALL, "cache=refresh", f"results={tmp_path}"])
    assert launch.run(config, []) == 0
    whole = Center.attribute

    def unstable(self: Center, *arguments: object) -> Attribution:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        return whole(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Center, "attribute", unstable)
    assert launch.run(config, []) == 0
    assert records() == [True, False]
    assert "not deterministic: put_" in capsys.readouterr().out
