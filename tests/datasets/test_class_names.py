"""Names of published networks' outputs, against lists from elsewhere."""

from pathlib import Path

import pytest
import yaml
from assay.datasets.class_names import PUBLISHED, class_names
from assay.datasets.decoding import DataError
from assay.harness.config import CONF
from assay.harness.overrides import compose_config


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_the_lists_of_networks_that_are_read_as_classifiers(name: str) -> None:
    """Those that conf/model has, in the order of the annotations."""
    listed = yaml.safe_load((CONF / f"model/mobilenet_v2_{name}.yaml").read_text())["classes"]
    assert list(class_names(name)) == listed


def test_imagenet() -> None:
    """A thousand, in the order of the sorted wnids: tench n01440764, golden retriever n02099601, toilet tissue."""
    names = class_names("imagenet")
    assert (len(names), names[0], names[207], names[999]) == (1000, "tench", "golden retriever", "toilet tissue")


def test_cifar10() -> None:
    """As its Hugging Face parquet says."""
    listed = yaml.safe_load((CONF / "dataset/cifar10_parquet.yaml").read_text())["classes"]
    assert list(class_names("cifar10")) == listed


def test_configs_name_a_list_that_is_there() -> None:
    """`images.classes` of a model, where it has one."""
    for file in (CONF / "model").glob("*.yaml"):
        about = yaml.safe_load(file.read_text()).get("images", {"classes": "imagenet"})
        assert about["classes"] in (*PUBLISHED, "${..classes}"), file


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    """A name a line; the names themselves; none."""
    (tmp_path / "names.txt").write_text("healthy\n\nvery sick\n")
    assert list(class_names(str(tmp_path / "names.txt"))) == ["healthy", "very sick"]
    assert class_names(["a", "b"]) == ("a", "b") and class_names(None) == ()
    with pytest.raises(DataError, match=r"classes=names: no file .*names, and none of cifar10, coco, imagenet"):
        class_names("names")


@pytest.mark.parametrize("model", ["mobilenet_v2_coco", "vgg16_voc"])
def test_a_network_may_stand_elsewhere(model: str) -> None:
    """Its notes read its own list, also as the larger network of a cascade."""
    words = ["dataset=scenes_hard", "dataset@validation=scenes_hard", "metric=[error_detection]", "method=[cascade]"]
    composed = compose_config([*words, f"model@method.cascade.larger={model}", f"model={model}"])
    assert composed.model.notes["images"]["classes"] == composed.model.settings["classes"]
