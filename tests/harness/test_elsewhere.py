"""Every method away from the CPU, as far as that can be proved without a GPU (see tests/pretend_device.py)."""

from collections import Counter
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
        assert mode.waits.total() == 3  # the host waits for what it sends as well, unless it does not have to
        x.to(ELSEWHERE, non_blocking=True)
        moved[torch.tensor([0])]  # an index of the host is sent
        assert mode.waits.total() == 4
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


# Where the host may wait for the device, and why. All else, a batch: once a method, to see that its maps are finite
# (engine/finite.py), and once a group of columns, to fetch them (transfer.py).
ONCE_A_RUN = {"probe.py", "graph.py", "network.py", "fitting.py", "cell.py", "noise.py"}  # looks, fits that are read
WAITS = {
    "heads.py _local_scalar_dense": "an image: do the head's parts, by which masks are cheap, give the logits?",
    "shapley.py _to_copy": "an image: least squares and Lasso on the CPU",
    "score_cam.py nonzero": "a call: how many passes depends on which channels are flat",
    "fullgrad.py _local_scalar_dense": "a call: is the sum complete?",
    "deeplift.py _local_scalar_dense": "a call: is the sum complete?",
    "alarm.py _to_copy": "a pull of relevance: has it grown beyond all measure?",
    "signs.py _to_copy": "a call: without negative inputs of a layer half of its convolutions are not made",
    "rules.py _local_scalar_dense": "a layer, of lrp_gamma alone: behind a ReLU half of the convolutions are not made",
    "patterns.py _local_scalar_dense": "a call: another activation than ReLU is refused; in a fit, a layer",
    "patterns.py _to_copy": "a layer, in a fit",
    "imputation.py _to_copy": "rows at once: a sparse system, solved on the CPU",
}


def _waited(mode: PretendDevice) -> Counter[str]:
    """Waits of one batch by file and operation, without those that are once a run."""
    found: Counter[str] = Counter()
    for place, times in mode.waits.items():
        where, _, operation = place.partition(" ")
        name = Path(where.partition(":")[0]).name
        if name not in ONCE_A_RUN:
            found[f"{name} {operation}"] += times
    return found


def test_a_batch_waits_once_a_method_and_once_a_group_of_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine methods and CAM, several passes in some: no wait for one of them. Three groups: who the pairs are, and two
    metrics, of which one sends perturbed inputs."""
    methods = "gradient,integrated_gradients,smoothgrad,guided_backprop,gradcam,layercam,rise,random,edges"
    settings = [
        "metric=[pointing_game,insertion]",
        "metric.insertion.steps=2",
        "method.rise.masks=70",
        "compute.batch_size=4",
    ]
    mode = _runs_elsewhere(tmp_path, monkeypatch, [f"method=[{methods}]", *ONE[:2], *settings])
    assert _waited(mode) == {"finite.py _local_scalar_dense": 10, "transfer.py _to_copy": 10 * 3}


@pytest.mark.slow
def test_every_method_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = _waited(_runs_elsewhere(tmp_path, monkeypatch, ONE))
    methods = waited.pop("finite.py _local_scalar_dense")
    assert methods > 35 and waited.pop("transfer.py _to_copy") == 2 * methods
    assert waited.keys() <= WAITS.keys()
    layers = 9  # of the network; for relevance see tests/methods/attribution/test_relevance_waits.py
    assert all(times <= 4 * layers for times in waited.values()), waited


@pytest.mark.slow
def test_metrics_that_draw_or_solve_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods. Sensitivity looks at the ten maps that it asks for again; ROAD solves on the CPU."""
    asked = ["method=[gradient]", *ONE[:2], "metric=[road,sensitivity,infidelity,single_deletion,aopc]"]
    waited = _waited(_runs_elsewhere(tmp_path, monkeypatch, asked))
    assert waited.pop("finite.py _local_scalar_dense") == 2 * (1 + 10)
    assert waited.pop("transfer.py _to_copy") == 2 * (1 + 5)
    assert waited.keys() <= WAITS.keys()


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
