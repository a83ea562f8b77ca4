"""The CIFAR architectures: sizes of the papers, names of the checkpoints, option A shortcuts, loading."""

from pathlib import Path

import pytest
import torch
from assay.harness.networks.cifar import ARCHITECTURES, CifarDenseNetBC, CifarResNet, OptionAShortcut
from assay.harness.networks.loading import cifar_network
from assay.harness.networks.weights import file_sha256
from safetensors.torch import save_file
from torch import nn

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "weights"
HALF = [0.5, 0.5, 0.5]


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize(
    ("architecture", "count"),
    [  # 0.27, 0.85, 0.8 and 11.2 million
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("densenet_bc100", 769_162),
        ("resnet18", 11_173_962),
    ],
)
def test_the_number_of_parameters_is_the_papers(architecture: str, count: int) -> None:
    assert parameters(ARCHITECTURES[architecture](10)) == count


@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("cifar10-resnet20", "resnet20"),
        ("cifar10-resnet56", "resnet56"),
        ("cifar10-densenet_bc100", "densenet_bc100"),
        ("cifar100-densenet_bc100", "densenet_bc100"),
    ],
)
@pytest.mark.realdata
def test_the_shared_weights_fit(file: str, architecture: str) -> None:
    path = SHARED / f"{file}.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}")
    classes = 100 if file.startswith("cifar100") else 10
    network = cifar_network(architecture, str(path), HALF, HALF, classes=classes)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_option_a_takes_every_second_cell_and_adds_zero_channels() -> None:
    x = torch.arange(1.0, 33).view(1, 2, 4, 4)
    out = OptionAShortcut(2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 0].eq(0).all()
    assert out[0, 3].eq(0).all()
    assert out[0, 1].tolist() == [[1, 3], [9, 11]]
    assert out[0, 2].tolist() == [[17, 19], [25, 27]]


def test_a_resnet_shortcut_has_no_parameters() -> None:
    assert not [name for name, _ in CifarResNet(20).named_parameters() if "shortcut" in name]


def test_a_dense_layer_puts_its_input_in_front() -> None:
    module = CifarDenseNetBC(10, 4).eval()  # stages of one bottleneck
    x = torch.randn(2, 8, 32, 32)
    out = module.block1(x)
    assert out.shape == (2, 12, 32, 32)
    assert out[:, :8].equal(x)


@pytest.mark.parametrize("depth", [21, 2])
def test_a_resnet_of_another_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth={depth} is not 6n"):
        CifarResNet(depth)


def test_a_densenet_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=101 is not 6n"):
        CifarDenseNetBC(101)


def test_an_unknown_architecture_names_the_known() -> None:
    with pytest.raises(ValueError, match="choose one of resnet20, resnet56, resnet18, densenet_bc100"):
        cifar_network("resnet34", None, HALF, HALF)


def test_random_weights_are_the_same_every_time() -> None:
    first, second = (cifar_network("resnet20", None, HALF, HALF) for _ in range(2))
    assert first.fingerprint == second.fingerprint


def test_a_checkpoint_saved_under_data_parallel_loads(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = ARCHITECTURES["resnet20"](10).state_dict()
    published = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec1": 91.7}
    torch.save(published, tmp_path / "resnet20.th")
    save_file(state, tmp_path / "resnet20.safetensors")
    loaded = [cifar_network("resnet20", str(tmp_path / f"resnet20.{e}"), HALF, HALF) for e in ("th", "safetensors")]
    assert loaded[0].fingerprint == loaded[1].fingerprint != cifar_network("resnet20", None, HALF, HALF).fingerprint


def test_the_digest_or_its_start_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "resnet20.safetensors"
    save_file(ARCHITECTURES["resnet20"](10).state_dict(), path)
    digest = file_sha256(path)
    for right in (digest, digest[:8]):
        cifar_network("resnet20", str(path), HALF, HALF, right)
    for wrong in ("0" * 64, digest[:7], ""):
        with pytest.raises(ValueError, match=f"sha256 of .* is {digest}, expected {wrong}"):
            cifar_network("resnet20", str(path), HALF, HALF, wrong)
