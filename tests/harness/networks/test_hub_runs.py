"""Hugging Face transformers from a local config with random weights, from `run.py` to the tables."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.harness import launch
from assay.harness.config import RunConfig
from assay.harness.detectors.plan import TEST, build_detection
from assay.harness.overrides import compose_config
from conftest import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore:ErrorMLP.*errors among:UserWarning"),  # of few images
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed"),
]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 8}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"height": 64, "width": 64},
}
HERE = ["compute.device=cpu", "compute.processes=1", "compute.batch_size=8", "compute.shard_size=40"]
MAPS = ["method=[gradcam,liftcam,attention_rollout]", "metric=[pointing_game]", "limit=8"]
DETECTORS = ["method=[msp,energy,knn,conductance_mlp]", "method.conductance_mlp.epochs=2"]


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**SIZES, intermediate_size=64, num_labels=11))


def dinov2() -> Any:
    """With four registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification

    return Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**SIZES, num_labels=11))


@pytest.fixture(params=[vit, dinov2], ids=["vit", "dinov2"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Words that choose a saved network, of weights so large that images differ, and its last attention's input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = request.param().eval()
        for each in model.parameters():
            torch.nn.init.normal_(each, std=0.2)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    ends = ("layers.1.layernorm_before", "layer.1.layernorm_before", "layer.1.norm1")  # of transformers 5, 4; DINOv2
    layer = next(name for name, _ in model.named_modules() if name.endswith(ends))
    return [f"model.repository={tmp_path / 'saved'}", "model.name=tiny", f"model.target_layer=model.{layer}"]


def config(words: list[str], results: Path) -> RunConfig:
    return compose_config([*words, "model=huggingface", *HERE, f"results={results}"])


def run(words: list[str], results: Path) -> pd.DataFrame:
    """Its rows; all cells were made, and the layers were cut in the graph of torch.export."""
    assert launch.run(config(words, results), []) == 0
    runs = pd.read_csv(results / "tidy/runs.csv")
    assert set(runs["cut_by"]) == {"export"}
    return pd.read_csv(results / "tidy/results.csv")


def test_maps_of_a_transformer(network: list[str], tmp_path: Path) -> None:
    rows = run([*network, *MAPS], tmp_path / "maps")
    hits = rows[rows["metric"] == "pointing_game"]
    assert set(hits["method"]) == {"gradcam", "liftcam", "attention_rollout"}
    assert hits["value"].between(0, 1).all()


def test_wrong_predictions_of_a_transformer(network: list[str], tmp_path: Path) -> None:
    """The embedded experiment on 40 images; of a random network about ten in eleven are wrong. MSP's scores,
    log(1 - p), are those of the saved model's own logits, float32, 1e-5."""
    words = ["experiment=errors_embedded", *network, *DETECTORS, "train.size=200", "validation.size=40"]
    words += ["dataset.size=40"]
    rows = run(words, tmp_path / "run")
    aurocs = rows[(rows["stat"] == "auroc") & (rows["subset"] == "all")]
    assert set(aurocs["method"]) == {"msp", "energy", "knn", "conductance_mlp"}
    assert aurocs["status"].eq("ok").all() and aurocs["value"].between(0, 1).all()
    tests = build_detection(config(words, tmp_path / "run"), tmp_path / "run/store").sets[TEST]
    from transformers import AutoModelForImageClassification

    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    scenes = Scenes("test", 40, (1, 1), hard=True)
    images = torch.stack([scenes[k].image for k in range(40)])
    with torch.no_grad():
        expected = torch.log1p(-saved(pixel_values=(images - 0.5) / 0.25).logits.softmax(1).amax(1))
    scores = torch.tensor(tests.table("msp")["score"].to_numpy())
    assert_close(scores[:, None], expected[:, None], 1e-5)
    assert expected.std() > 0.003


def test_unknown_images_of_a_transformer(network: list[str], tmp_path: Path) -> None:
    few = ["train.size=60", "dataset.size=20", "ood=[scenes_noise]", "ood.scenes_noise.size=20"]
    rows = run(["experiment=ood_embedded", *network, *DETECTORS, *few], tmp_path / "run")
    aurocs = rows[(rows["stat"] == "auroc") & (rows["dataset"] == "scenes_noise")]
    assert set(aurocs["method"]) == {"msp", "energy", "knn", "conductance_mlp"}
    assert aurocs["status"].eq("ok").all() and aurocs["value"].between(0, 1).all()
