"""Networks of transformers and timm from local configs with random weights, from `run.py` to the tables."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.harness import launch
from assay.harness.build import build
from assay.harness.config import RunConfig
from assay.harness.detectors.plan import TEST, build_detection
from assay.harness.overrides import compose_config
from conftest import assert_close
from hub_networks import BY_TIMM, SIDE, cases, logits_of, made, saved
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:ErrorMLP.*errors among:UserWarning"),  # of few images
    pytest.mark.slow,
]

HERE = ["compute.device=cpu", "compute.processes=1", "compute.batch_size=8", "compute.shard_size=40"]
MAPS = "method=[gradcam,liftcam,attention_rollout,generic_attention,attnlrp]"
DETECTORS = ["method=[msp,energy,knn,conductance_mlp]", "method.conductance_mlp.epochs=2"]
TOKENS = ("hf_vit", "hf_dinov2_registers", "hf_beit", "hf_deit_distilled", "clip", "timm_deit_distilled", "timm_beit")


class Saved(NamedTuple):
    """A network as its library has it, and words that choose its files."""

    name: str
    model: Any
    words: list[str]

    def logits(self, images: Tensor) -> Tensor:
        """The library's, of images in [0,1]."""
        with torch.no_grad():
            return logits_of(self.name, self.model, (images - 0.5) / 0.25)


def saved_network(name: str, folder: Path) -> Saved:
    """Its layers are left to the network."""
    model = made(name)
    return Saved(name, model, saved(name, model, folder / "saved", list(map(str, Scenes("test", 1).classes))))


def config(words: list[str], results: Path) -> RunConfig:
    return compose_config([*words, *HERE, f"results={results}"])


def run(network: Saved, words: list[str], results: Path, code: int = 0) -> pd.DataFrame:
    """Its rows; timm's layers were cut in the graph of torch.fx, the others' in that of torch.export."""
    assert launch.run(config([*words, *network.words], results), []) == code
    runs = pd.read_csv(results / "tidy/runs.csv")
    assert set(runs["cut_by"]) == {"fx" if network.name in BY_TIMM else "export"}
    return pd.read_csv(results / "tidy/results.csv")


@pytest.mark.parametrize("name", cases(*TOKENS))
def test_maps_of_a_transformer(name: str, tmp_path: Path) -> None:
    rows = run(saved_network(name, tmp_path), [MAPS, "metric=[pointing_game]", "limit=8"], tmp_path / "maps")
    hits = rows[rows["metric"] == "pointing_game"]
    assert set(hits["method"]) == {"gradcam", "liftcam", "attention_rollout", "generic_attention", "attnlrp"}
    assert hits["status"].eq("ok").all() and hits["value"].between(0, 1).all()


@pytest.mark.parametrize("name", cases("hf_swin", "timm_swin", "hf_convnext", "timm_convnext"))
def test_maps_of_a_network_of_stages(name: str, tmp_path: Path) -> None:
    """Without attention between all tokens two of the methods fail, which the exit code says."""
    rows = run(saved_network(name, tmp_path), [MAPS, "metric=[pointing_game]", "limit=8"], tmp_path / "maps", code=1)
    hits = rows[rows["metric"] == "pointing_game"].groupby("method")["status"]
    done = hits.apply(lambda each: each.eq("ok").all())
    assert set(done.index[done]) == {"gradcam", "liftcam", "attnlrp"}
    assert hits.first()["attention_rollout"].startswith("failed:ValueError: AttentionRollout multiplies attention")


@pytest.mark.parametrize("name", cases("hf_vit", "hf_dinov2_registers", "clip", "timm_deit", "timm_swin"))
def test_wrong_predictions_of_a_transformer(name: str, tmp_path: Path) -> None:
    """The embedded experiment on 40 images; of a random network about ten in eleven are wrong. MSP's scores,
    log(1 - p), are those of the library's own logits, float32, 1e-5."""
    words = ["experiment=errors_embedded", *DETECTORS, "train.size=200", "validation.size=40", "dataset.size=40"]
    network = saved_network(name, tmp_path)
    rows = run(network, words, tmp_path / "run")
    aurocs = rows[(rows["stat"] == "auroc") & (rows["subset"] == "all")]
    assert set(aurocs["method"]) == {"msp", "energy", "knn", "conductance_mlp"}
    assert aurocs["status"].eq("ok").all() and aurocs["value"].between(0, 1).all()
    tests = build_detection(config([*words, *network.words], tmp_path / "run"), tmp_path / "run/store").sets[TEST]
    scenes = Scenes("test", 40, (1, 1), hard=True)
    images = torch.stack([scenes[k].image for k in range(40)])
    assert images.shape[-1] == SIDE
    expected = torch.log1p(-network.logits(images).softmax(1).amax(1))
    scores = torch.tensor(tests.table("msp")["score"].to_numpy())
    assert_close(scores[:, None], expected[:, None], 1e-5)
    assert expected.std() > 0.0003


UNKNOWN = ("hf_vit", "hf_dinov2_registers", "hf_beit", "hf_deit_distilled", "clip", "timm_deit_distilled")


@pytest.mark.parametrize("name", cases(*UNKNOWN))
def test_unknown_images_of_a_transformer(name: str, tmp_path: Path) -> None:
    few = ["train.size=60", "dataset.size=20", "ood=[scenes_noise]", "ood.scenes_noise.size=20"]
    rows = run(saved_network(name, tmp_path), ["experiment=ood_embedded", *DETECTORS, *few], tmp_path / "run")
    aurocs = rows[(rows["stat"] == "auroc") & (rows["dataset"] == "scenes_noise")]
    assert set(aurocs["method"]) == {"msp", "energy", "knn", "conductance_mlp"}
    assert aurocs["status"].eq("ok").all() and aurocs["value"].between(0, 1).all()


# The page


def block_of(language: str, start: str) -> str:
    page = Path(__file__).parents[3] / "docs/how-to/own-model.md"
    found = re.findall(rf"^```{language}\n({start}.*?)^```$", page.read_text(), re.M | re.S)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("name", cases("clip"))
def test_the_pages_lines_embed_classes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script on a tokenizer of one word a class, then its command on drawn data: the model's logits."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    classes = list(map(str, Scenes("test", 1).classes))
    numbers = {word: k for k, word in enumerate(["a", "photo", "of", *classes], 1)} | {"?": 0, "<end>": 49}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 49)])
    folder = tmp_path / "weights/clip-vit-base-patch32"
    folder.parent.mkdir()
    clip = made(name)
    saved(name, clip, folder, classes)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<end>").save_pretrained(folder)
    (tmp_path / "embed.py").write_text(block_of("python", "# embed.py"))
    subprocess.run([sys.executable, "embed.py", str(folder), *classes], cwd=tmp_path, check=True)
    line = next(each for each in block_of("sh", "python run.py").splitlines() if "model=clip" in each)
    words = [word for word in line.split()[2:] if not word.startswith("dataset=")]
    monkeypatch.chdir(tmp_path)
    made_config = config([*words, "limit=8", "method=[gradcam]", "metric=[pointing_game]"], tmp_path / "run")
    assert launch.run(made_config, []) == 0
    rows = torch.tensor([[1, 2, 3, 1, 4 + k, 49] for k in range(len(classes))])
    inputs = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = clip(input_ids=rows, pixel_values=inputs).logits_per_image
        assert_close(build(made_config.model)(inputs), expected, 1e-5)
