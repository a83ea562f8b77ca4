"""Every method away from the CPU, as far as that can be proved without a GPU (see tests/pretend_device.py)."""

from pathlib import Path

import pytest
import torch
from assay.harness import launch
from assay.harness.engine import request
from assay.harness.overrides import compose_config
from assay.harness.results import gate
from pretend_device import ELSEWHERE, PretendDevice

ONE = ["limit=1", "train.limit=4", "metric=[energy_pointing_game]"]


def test_the_pretended_device_computes_moves_and_refuses_mixtures() -> None:
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    with PretendDevice() as mode:
        moved = x.to(ELSEWHERE)
        assert moved.device == ELSEWHERE and not moved.is_cpu
        leaf = moved.requires_grad_()
        (gradient,) = torch.autograd.grad((leaf * leaf).sum(), leaf)
        assert torch.equal(gradient.cpu(), 2 * x)
        assert torch.arange(2, device=ELSEWHERE).tolist() == [0, 1]
        assert mode.waits.total() == 2
        with pytest.raises(RuntimeError, match="tensors of two devices"):
            moved + x
        with pytest.raises((RuntimeError, TypeError), match=r"(?i)numpy"):
            moved.detach().numpy()


def _run(folder: Path, overrides: list[str]) -> None:
    arguments = ["experiment=ci_resnet", f"results={folder}", *overrides]
    assert launch.run(compose_config(arguments), arguments) == 0


def _runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> PretendDevice:
    """A run here and one elsewhere, whose results are compared within the gate's limits; where the latter waited."""
    _run(tmp_path / "here", overrides)
    monkeypatch.setattr(request, "pick_device", lambda name: ELSEWHERE)
    with PretendDevice() as mode:
        _run(tmp_path / "elsewhere", overrides)
    found = gate.check(tmp_path / "here", tmp_path / "elsewhere")
    assert found.findings and not found.wrong, gate.lines(found)
    return mode


LOOKED = {  # methods that look at values, and how: once a layer or a call, none in a loop over samples or steps
    "heads.py": "nonzero _local_scalar_dense _to_copy",
    "shapley.py": "_to_copy",
    "rise.py": "nonzero _to_copy",
    "score_cam.py": "nonzero",
    "fullgrad.py": "_local_scalar_dense",
    "deeplift.py": "_local_scalar_dense",
    "alarm.py": "_local_scalar_dense",
    "rules.py": "_local_scalar_dense",
    "patterns.py": "_local_scalar_dense _to_copy",
    "guided.py": "_to_copy",
}


def test_gradient_and_cam_methods_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = "gradient,integrated_gradients,smoothgrad,guided_backprop,gradcam,layercam,deeplift,random,edges"
    mode = _runs_elsewhere(tmp_path, monkeypatch, [f"method=[{methods}]", *ONE])
    waits = {place.partition(" ")[0].rpartition(":")[0] for place in mode.waits if place.startswith("methods/")}
    assert waits <= {"methods/attribution/deeplift.py"}


@pytest.mark.slow
def test_every_method_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode = _runs_elsewhere(tmp_path, monkeypatch, ONE)
    for place in mode.waits:
        where, _, operation = place.partition(" ")
        if where.startswith("methods/"):
            assert operation in LOOKED[Path(where.partition(":")[0]).name].split(), place


@pytest.mark.slow
def test_the_gpu_preset_gives_the_same_tables(tmp_path: Path) -> None:
    """On the CPU: larger batches and shards, loader processes, and noise that is drawn by eight threads."""
    few = ["limit=5", "train.limit=4", "method=[gradient,smoothgrad,gradcam,random]", "metric=[energy_pointing_game]"]
    _run(tmp_path / "auto", few)
    try:
        _run(tmp_path / "gpu", [*few, "compute=gpu", "compute.device=cpu"])
    finally:
        torch.set_num_threads(1)
    found = gate.check(tmp_path / "auto", tmp_path / "gpu")
    assert len(found.findings) == 5 and not found.wrong, gate.lines(found)  # CAM is the experiment's own
