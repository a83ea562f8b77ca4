"""What can be given, and what is said of what cannot: the thing, the value, the mend."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from assay.harness.network import Network
from assay.methods.attribution.gradient import Gradient
from conftest import ToyModule, random_images
from torch import Tensor, nn

import assay
from assay.composed import configured
from assay.given import data_of, home_of, network_of

TOY = (ToyModule(), (0.5,) * 3, (0.125,) * 3)
IMAGE = random_images(1, 64)[0]
PAIR = (random_images(4, 8), [0, 1, 0, 1])


def asked(overrides: Any = (), model: Any = "scenes_vgg", methods: Any = "gradcam", **more: Any) -> Any:
    """The config of `evaluate` on the embedded scenes."""
    lists = {"method": methods, "metric": more.pop("metrics", "positive_ratio"), "ood": more.pop("ood", ())}
    return configured(model, {"dataset": "scenes", **more.pop("sets", {})}, lists, overrides, more)


# Names and overrides


def test_names_and_overrides_as_on_the_command_line() -> None:
    """A name or several; one override may stand alone."""
    config = asked("limit=3", methods=["gradcam", "center"])
    assert config.model.name == "scenes_vgg" and config.dataset.limit == 3
    assert list(config.method) == ["center", "gradcam"] and list(config.metric) == ["positive_ratio"]
    assert asked(["method.gradcam.signed=true"]).method["gradcam"].settings["signed"] is True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: asked(model="scenes_vg"), "'scenes_vg' is not a model. Did you mean scenes_vgg or"),
        (lambda: asked(methods="gradcm"), "'gradcm' is not a method. Did you mean gradcam or"),
        (lambda: asked(methods=["gradcam", "gradcm"]), "'gradcm' is not a method"),
        (lambda: asked(metrics="pointing"), "'pointing' is not a metric. Did you mean pointing_game"),
        (lambda: asked(sets={"train": "scenes_trian"}), "'scenes_trian' is not a dataset. Did you mean scenes_train"),
        (lambda: asked(ood="scenes_nois"), "'scenes_nois' is not a ood. Did you mean scenes_noise"),
        (lambda: asked(["limt=3"]), "'limt' is not a top-level key. Did you mean limit?"),
        (lambda: asked(["method.gradcam.sign=true"]), "'sign' is not a setting. Did you mean signed?"),
        (lambda: asked(["limit:3"]), "override 'limit:3': write KEY=VALUE"),
        (lambda: asked(["limit"]), "override 'limit': write KEY=VALUE"),
        (lambda: asked(["limit=0"]), "limit=0: give a whole number of at least 1"),
        (lambda: asked(["model=scenes_resnet"]), "override 'model=scenes_resnet': given as an argument"),
        (lambda: asked(["+method=gradient"]), "override '+method=gradient': given as an argument"),
        (lambda: asked(["dataset@train=scenes"], sets={"train": "scenes_train"}), "given as an argument"),
        (lambda: asked(["ood=[svhn]"], ood="scenes_noise"), "override 'ood=[svhn]': given as an argument"),
        (lambda: asked(["results=out"]), "override 'results=out': give results=FOLDER as an argument"),
        (lambda: asked(["dry_run=true"]), "override 'dry_run=true': leave it out"),
        (lambda: asked(["compute.processes=4"]), "one process computes here; compute.threads=N uses more cores"),
        (
            lambda: configured("scenes_vgg", {"train": "scenes"}, {}, ["limit=9"]),
            "train.limit=N limits what a detector",
        ),
        (lambda: asked(["model.weights=null"], model=TOY), "model is an object: set this where you make it"),
        (lambda: asked(["dataset.size=9"], sets={"dataset": PAIR}), "dataset is an object: set this where you make it"),
        (lambda: asked(["train.size=9"], sets={"train": PAIR}), "train is an object: set this where you make it"),
        (lambda: asked(["method.mine.reduce=sum"], methods={"mine": Gradient()}), "method.mine is an object: set this"),
        (
            lambda: asked(model=TOY),
            "method gradcam reads model.target_layer, which an object does not say: give layer=",
        ),
        (
            lambda: asked(model=TOY, methods="contrastive_eb", layer="relu"),
            "contrastive_eb reads model.contrast_layer, which an object does not say: "
            "give overrides=['model.contrast_layer=NAME']",
        ),
        (
            lambda: asked(sets={"dataset": PAIR}, metrics="pointing_game"),
            "metric pointing_game reads dataset.tolerance_px, which an object does not say: give tolerance_px=PIXELS",
        ),
        (lambda: assay.evaluate("scenes_vgg", "scenes", [], "pointing_game"), "no method chosen"),
        (lambda: assay.evaluate("scenes_vgg", "scenes", "gradcam", []), "no metric chosen"),
        (lambda: assay.evaluate("scenes_vgg", "scenes", ["gradcam", "msp"], "ood"), "evaluate them in two runs"),
        (lambda: assay.evaluate("scenes_vgg", "scenes", "gradcam", "ood"), "metric ood reads detectors' scores"),
        (lambda: assay.evaluate("scenes_vgg", "scenes", "msp", "miou"), "metric miou measures attributions"),
        (lambda: assay.evaluate("scenes_vgg", "scenes", "msp", "ood"), "needs sets to be told from scenes: ood="),
        (lambda: assay.evaluate("scenes_vgg", "scenes", "knn", "error_detection"), "from Python train=NAME"),
    ],
)
def test_what_cannot_be_asked(call: Callable[[], Any], message: str) -> None:
    """A ConfigError, which is a ValueError."""
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_what_objects_do_not_say_can_be_said() -> None:
    """Layers and the tolerance by arguments, or by the keys that configs read; a layer may be called '4'."""
    config = asked(["model.contrast_layer=fc"], model=TOY, methods="contrastive_eb", layer="relu")
    assert config.method["contrastive_eb"].settings["layer"] == "relu"
    assert config.method["contrastive_eb"].settings["contrast_layer"] == "fc"
    assert asked(layer="4").method["gradcam"].settings["layer"] == "4"
    assert asked(["dataset.tolerance_px=3"], sets={"dataset": PAIR}, metrics="pointing_game").metric
    config = asked(sets={"dataset": PAIR}, metrics="pointing_game", tolerance_px=1.5)
    assert config.metric["pointing_game"].settings["tolerance_px"] == 1.5


def test_nothing_is_chosen_but_what_is_given() -> None:
    """The command line's defaults are not: neither beside objects alone, nor where nothing is given."""
    config = asked(model=TOY, methods={"mine": Gradient()}, metrics=())
    assert config.method.keys() == {"mine"} and config.metric == {} and config.ood == {}
    assert asked(["ood=[scenes_noise]"]).ood.keys() == {"scenes_noise"}


def test_limits_reach_objects() -> None:
    """Of the data set by `limit`, of the training set by `train.limit`, as on the command line."""
    config = asked(["limit=3", "train.limit=2"], sets={"dataset": PAIR, "train": PAIR}, ood={"mine": PAIR[0]})
    assert config.train is not None
    assert (config.dataset.limit, config.train.limit, config.ood["mine"].limit) == (3, 2, 3)


# Images and data sets


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE[None], "image [1, 3, 64, 64]: give [3,H,W]; of a batch [N,3,H,W], one: images[0]"),
        (IMAGE[:1], "image [1, 64, 64]: give [3,H,W]"),
        (IMAGE[0], "image [64, 64]: give [3,H,W]"),
        (IMAGE * 255, "not normalised"),
        (IMAGE - 0.5, "pixels from -0.4"),
        (torch.where(IMAGE > 0.9, torch.nan, IMAGE), "pixels from nan to nan"),
        (torch.full((3, 64, 64), torch.inf), "pixels from inf to inf"),
        ((IMAGE * 255).byte(), "pixels are torch.uint8: give floating-point numbers in [0,1] (image / 255)"),
        (IMAGE.numpy(), "images are a ndarray: give a torch tensor"),
    ],
)
def test_an_image_that_is_none(image: Any, message: str) -> None:
    """The shape, the type or the range is said."""
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        assay.explain("scenes_vgg", image, "center")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((PAIR[0], [0, 1]), "images [4, 3, 8, 8] and 2 classes: give [N,3,H,W] and N classes"),
        ((PAIR[0][0], [0, 1, 0]), "images [3, 8, 8] and 3 classes"),
        ((PAIR[0], [0, 1, 0, -1]), "a class below 0: classes count from 0; images without classes are given alone"),
        ((PAIR[0], torch.eye(4)), "classes [4, 4]: give one index an image, [N] (of one-hot rows: argmax(1))"),
        ((PAIR[0], [0.0, 1.5, 0.0, 1.0]), "classes are torch.float32, as 0.0: give indices, whole numbers from 0"),
        ((PAIR[0], torch.tensor([True, False, True, True])), "classes are torch.bool, as True: give indices"),
        ((PAIR[0], ["a", "b", "a", "b"]), "give indices, whole numbers from 0"),
        ((PAIR[0] * 2, PAIR[1]), "not normalised"),
        ([(IMAGE, 1)], "a list is no data set (it has no classes, split, fingerprint)"),
        (nn.Identity(), "a Identity is no data set"),
    ],
)
def test_data_that_are_none(given: Any, message: str) -> None:
    """Others' data sets among them."""
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        data_of(given)


def test_images_in_memory() -> None:
    """A sample each, in order; float64 and labels in a tensor are taken; other pixels, another fingerprint."""
    data = data_of((PAIR[0].double().requires_grad_(), torch.tensor(PAIR[1])))
    assert not isinstance(data, str)
    assert (len(data), list(data.classes)) == (4, ["0", "1"])
    assert data[3].targets == (1,) and data[3].size0 == (8, 8) and data[3].image.dtype == torch.float32
    assert torch.equal(data[3].image, PAIR[0][3]) and not data[3].image.requires_grad
    alone = data_of(PAIR[0])
    assert not isinstance(alone, str) and alone[0].targets == () and list(alone.classes) == []
    assert alone.fingerprint() != data.fingerprint() == data_of(PAIR).fingerprint()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="dataset InMemory has no samples"):
        assay.evaluate(TOY, (torch.zeros(0, 3, 1, 2), []), "center", "positive_ratio")


# Networks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ToyModule(), "a ToyModule is none: give a config's name, (module, mean, std)"),
        ((ToyModule(), (0.5,) * 3), "a tuple is none"),
        (None, "a NoneType is none"),
    ],
)
def test_models_that_are_none(given: Any, message: str) -> None:
    """A module does not say what its inputs are normalised by."""
    with pytest.raises(TypeError, match=re.escape(message)):
        network_of(given)


def test_a_module_is_copied_and_a_network_is_not() -> None:
    """So that a caller's module is never frozen, moved or cast."""
    module = ToyModule().train()
    made = network_of((module, *TOY[1:]))
    assert made.module is not module and module.training
    assert network_of(made) is made and made.fingerprint


def test_an_object_computes_where_it_is() -> None:
    """In its precision and on its device; a copy of it, where overrides say otherwise."""
    network = Network(ToyModule().double(), *TOY[1:])
    assert home_of(network) == {"precision": "float64", "compute.device": "cpu"}
    assert asked(model=network, methods="center").model.made is network
    moved = asked(["precision=float32"], model=network, methods="center")
    assert moved.precision == "float32" and moved.model.made is not network
    assert asked(["compute.memory_format=channels_last"], model=network, methods="center").model.made is not network
    with pytest.raises(ValueError, match=r"parameters are torch\.float16: give a network in float32 or float64"):
        asked(model=(ToyModule().half(), *TOY[1:]))

    class Free(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    assert home_of(Network(Free(), *TOY[1:])) == {}


@pytest.mark.parametrize("objects", [[Gradient()], {"mine": "gradient"}])
def test_objects_have_names(objects: Any) -> None:
    """A list has names; a mapping has objects."""
    with pytest.raises(TypeError, match="give names of configs"):
        asked(methods=objects)


# Classes


def test_classes_that_are_not_there() -> None:
    """The range is said; of classes that a network is only read as, which have no output."""
    for target in (11, -1):
        with pytest.raises(ValueError, match=f"target={target}: scenes_vgg has classes 0 to 10"):
            assay.explain("scenes_vgg", IMAGE, "center", target)
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        assay.explain("scenes_vgg", IMAGE, "center", 1.0)  # type: ignore[arg-type]
    grouped = Network(ToyModule(), *TOY[1:], groups=[[0], [], [1]])
    image = random_images(3, 2)[0, :, :1]
    assert assay.explain(grouped, image, "gradient", torch.tensor(2)).target == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target=1: ToyModule has no output for this class"):
        assay.explain(grouped, image, "gradient", 1)


def test_labels_that_the_network_does_not_have() -> None:
    """Said before anything is computed."""
    with pytest.raises(ValueError, match=r"InMemory has 3 classes \(0, 1, 2\) and ToyModule 2 outputs"):
        assay.evaluate(TOY, (random_images(2, 2)[:, :, :1], [0, 2]), "gradient", "positive_ratio")


def test_a_detector_makes_no_map() -> None:
    """And a method of maps no scores: each says so."""
    with pytest.raises(ValueError, match="method msp scores images and makes no maps: choose attribution methods"):
        assay.explain("scenes_vgg", IMAGE, "msp")
    with pytest.raises(ValueError, match="method gradcam makes maps and scores no images: choose a detector"):
        assay.fit("gradcam", "scenes_vgg", "scenes")
    with pytest.raises(ValueError, match="method Gradient makes maps"):
        assay.fit(Gradient(), "scenes_vgg")
