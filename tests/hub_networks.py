"""Small networks of transformers and timm from local configs with random weights, saved as people have them."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SIDE, CLASSES = 64, 11
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": SIDE, "patch_size": 16}
WIDE = SIZES | {"intermediate_size": 64}
LABELS = {"num_labels": CLASSES}
WINDOWS = {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
TIMM = {"img_size": SIDE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4}
STAGES = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 49}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}


class Timm(NamedTuple):
    """A name of timm, and what it is created with."""

    name: str
    create: dict[str, Any]


# Hugging Face: the model's class, that of its config, and the config.
HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hf_vit": ("ViTForImageClassification", "ViTConfig", WIDE | LABELS),
    "hf_deit": ("DeiTForImageClassification", "DeiTConfig", WIDE | LABELS),
    "hf_deit_distilled": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", WIDE | LABELS),
    "hf_beit": ("BeitForImageClassification", "BeitConfig", WIDE | LABELS | {"use_relative_position_bias": True}),
    "hf_dinov2": ("Dinov2ForImageClassification", "Dinov2Config", SIZES | LABELS),
    "hf_dinov2_registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        SIZES | LABELS,
    ),
    "hf_swin": ("SwinForImageClassification", "SwinConfig", WINDOWS | LABELS),
    "hf_convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2} | LABELS,
    ),
}
BY_TIMM = {
    "timm_vit": Timm("vit_tiny_patch16_224", TIMM),
    "timm_deit": Timm("deit_tiny_patch16_224", TIMM),
    "timm_deit_distilled": Timm("deit_tiny_distilled_patch16_224", TIMM),
    "timm_beit": Timm("beit_base_patch16_224", TIMM),
    "timm_dinov2_registers": Timm("vit_small_patch14_reg4_dinov2", TIMM | {"num_classes": CLASSES}),
    "timm_swin": Timm(
        "swin_tiny_patch4_window7_224",
        {"img_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "timm_convnext": Timm("convnext_tiny", STAGES),
}
NAMES = [*HUGGING_FACE, "clip", *BY_TIMM]


def needs(name: str) -> str:
    """The package that a network is of."""
    return "timm" if name in BY_TIMM else "transformers"


def cases(*names: str, quick: tuple[str, ...] = ()) -> list[Any]:
    """Parameters of a test, each skipped where its package is absent, and slow but for a few."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        is_absent = importlib.util.find_spec(needs(name)) is None
        absent = pytest.mark.skipif(is_absent, reason=f"{needs(name)} is not installed")
        return [absent] if name in quick else [absent, pytest.mark.slow]

    return [pytest.param(name, marks=marks(name)) for name in names]


def drawn(build: Callable[[], nn.Module]) -> Any:
    """A network of weights so large that images differ, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
        for each in model.parameters():
            nn.init.normal_(each, std=0.2)
    return model


def made(name: str) -> Any:
    """The module of a library as it is, `CLIPModel` among them."""
    if name in BY_TIMM:
        import timm

        kind, settings = BY_TIMM[name]
        return drawn(lambda: timm.create_model(kind, pretrained=False, **{"num_classes": CLASSES} | settings))
    import transformers

    if name == "clip":
        parts = {"text_config": TEXT, "vision_config": WIDE, "projection_dim": 12, "logit_scale_init_value": 2.5}
        model = drawn(lambda: transformers.CLIPModel(transformers.CLIPConfig(**parts)))
        model.logit_scale.data.fill_(2.5)
        return model
    kind, config, settings = HUGGING_FACE[name]
    return drawn(lambda: getattr(transformers, kind)(getattr(transformers, config)(**settings)))


def texts() -> Tensor:
    """Token numbers [C,6] of a text a class, the last one the end."""
    words = torch.randint(1, 49, (CLASSES, 6), generator=torch.Generator().manual_seed(1))
    words[:, -1] = 49
    return words


@torch.no_grad()
def embedded(clip: Any) -> Tensor:
    """[C,D] of `texts`."""
    return clip.text_projection(clip.text_model(input_ids=texts()).pooler_output)


def logits_of(name: str, model: Any, inputs: Tensor) -> Tensor:
    """What the library itself says of normalised inputs."""
    if name == "clip":
        return model(input_ids=texts(), pixel_values=inputs).logits_per_image
    return model(inputs) if name in BY_TIMM else model(pixel_values=inputs).logits


def saved(name: str, model: Any, folder: Path, names: list[str]) -> list[str]:
    """Words that choose the network, whose files are put into the folder. names: of its classes."""
    folder.mkdir(exist_ok=True)
    if name in BY_TIMM:
        save_file(model.state_dict(), folder / "weights.safetensors")
        kind, create = BY_TIMM[name]
        told = ",".join(f"{key}:{value}" for key, value in create.items() if key != "num_classes")
        words = [f"model.architecture={kind}", f"model.weights={folder / 'weights.safetensors'}"]
        return ["model=timm", *words, f"model.create={{{told}}}", "model.classes=11", *STATISTICS]
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    words = ["model=clip" if name == "clip" else "model=huggingface", f"model.repository={folder}", "model.name=tiny"]
    if name == "clip":
        save_file({"text": embedded(model)}, folder / "text.safetensors")
        (folder / "names.txt").write_text("\n".join(names))
        words += [f"model.text={folder / 'text.safetensors'}", f"model.names={folder / 'names.txt'}"]
    return words


STATISTICS = ["model.mean=[.5,.5,.5]", "model.std=[.25,.25,.25]"]
