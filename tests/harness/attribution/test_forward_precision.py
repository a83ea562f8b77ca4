"""Forward-only loops in bfloat16: other keys and another word in a column for them, and the same bits for all else."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.fitted import fit_missing
from assay.harness.attribution.plan import build_job
from assay.harness.config import ConfigError
from assay.harness.engine.measure import share
from assay.harness.engine.rank import Rank
from assay.harness.forward import ForwardPass
from assay.harness.launch import build_run
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.reduced import Passes
from assay.harness.store.store import SAMPLES
from torch import Tensor, nn

HERE = ["limit=2", "train.limit=4", "compute.device=cpu", "compute.processes=1"]
HALF = "forward_precision=bfloat16"
BITS = 2.0**-8  # of bfloat16's fraction: a rounding is at most that, relative


class Toy(nn.Module):
    """A linear layer whose products need more than eight bits."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 2, bias=False)
        self.last.weight.data = torch.tensor([[1 + 2.0**-10, 0, 0], [0, 1.0, 0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.mean((2, 3)))


def test_passes_without_gradients_alone_and_inside_the_block_alone() -> None:
    """1 + 2^-10 is 1 in bfloat16; logits come back as float32; with gradients, or afterwards, all bits are there."""
    network, x = Network(Toy(), [0.0] * 3, [1.0] * 3), torch.ones(1, 3, 1, 1)
    exact = [1 + 2.0**-10, 1.0]
    with network.reduced.of("bfloat16"):
        found = network.infer(x)
        assert found.dtype == torch.float32 and found.tolist() == [[1.0, 1.0]]
        assert network.twin().infer(x).tolist() == [[1.0, 1.0]]
        assert network(x.clone().requires_grad_()).tolist() == [exact]
        with network.reduced.of(""):
            assert network.infer(x).tolist() == [exact]
        assert network.infer(x).tolist() == [[1.0, 1.0]]
    assert network.infer(x).tolist() == [exact]


def test_what_is_no_tensor_is_left_to_who_refuses_it() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    passes = Passes()
    with passes.of("bfloat16"), torch.no_grad():
        assert isinstance(passes(Two(), torch.ones(2)), tuple)


def values_of(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """The maps of two scenes by method, and the columns of each metric on the first method's, by name."""
    job = build_job(compose_config([*HERE, f"results={folder}", *overrides]), folder / "store")
    fit_missing(job, Rank(0, 1))
    samples = [job.images.dataset[int(index)] for index in job.images.order[:2]]
    batch, forward = share(job, samples, job.cells, 4)
    cells = [cell for cell in job.cells if isinstance(cell, AttributionCell)]
    made = {cell.name: cell.attribute(batch, forward).values for cell in cells}
    prepared = cells[0].prepare(batch, forward)
    for group in sorted(cells[0].groups.keys() - {SAMPLES}):
        columns = cells[0].columns(group, prepared, batch, forward)
        made[f"metric {group}"] = torch.cat([each.double().flatten() for each in columns.values()]).nan_to_num()
    return made


def changed(folder: Path, *overrides: str) -> set[str]:
    """What has other bits in bfloat16; nothing is further off than a few roundings."""
    one, other = values_of(folder / "one", *overrides), values_of(folder / "other", *overrides, HALF)
    for name, found in other.items():
        assert float((one[name] - found).norm()) <= 32 * BITS * float(one[name].norm()), name
    return {name for name, found in other.items() if not torch.equal(one[name], found)}


def test_methods_on_gradients_keep_every_bit(tmp_path: Path) -> None:
    """Of four methods one is forward-only, and of three metrics none."""
    settings = ["method=[gradient,gradcam,lrp_epsilon,rise]", "method.rise.masks=20", "metric.insertion.steps=3"]
    settings += ["metric.insertion.read=probability"]  # whether a class is right has one bit, which may stay
    settings += ["metric=[insertion,energy_pointing_game,sensitivity]", "metric.sensitivity.samples=1"]
    assert changed(tmp_path, "model=scenes_resnet", *settings) == {"rise"}


@pytest.mark.slow
def test_of_every_method_and_metric_those_change_that_say_so(tmp_path: Path) -> None:
    """The gate's, on the network with batch-norms; metrics of the floor `center`, of which none may."""
    metrics = "insertion,perturbation,aopc,average_drop,road,single_deletion,infidelity,sensitivity"
    of_metrics = ["method=[center]", f"metric=[{metrics},energy_pointing_game,sanity_check,shap_cosine,sparseness]"]
    of_metrics += [f"metric.{name}.read=probability" for name in ("insertion", "perturbation", "road")]
    assert changed(tmp_path / "methods", "experiment=ci_resnet", "metric=[pointing_game]") == {"rise", "scorecam"}
    assert changed(tmp_path / "metrics", "model=scenes_resnet", *of_metrics) == set()


def test_a_metric_that_asks_again_gets_the_methods_own_bits(tmp_path: Path) -> None:
    """Sensitivity is in float32, and RISE, asked again inside of it, in bfloat16 as it was at first: the same map."""
    words = ["method=[rise]", "method.rise.masks=20", "metric=[insertion]", HALF]
    job = build_job(compose_config([*HERE, f"results={tmp_path}", *words]), tmp_path / "store")
    (cell,) = (each for each in job.cells if isinstance(each, AttributionCell))
    batch, forward = share(job, [job.images.dataset[0]], job.cells, 4)
    first, again = cell.attribute(batch, forward), cell.again(batch, 4)
    for outer in ("", "bfloat16"):
        with job.network.reduced.of(outer):
            assert torch.equal(again(job.network, batch.images).values, first.values)
            assert job.network.reduced.type == outer


def test_what_methods_share_is_in_full_precision(tmp_path: Path) -> None:
    """Also where a pass is made inside a metric's block: its logits are read before the method's block begins."""
    words = ["method=[rise]", "metric=[pointing_game]", HALF]
    job = build_job(compose_config([*HERE, f"results={tmp_path}", *words]), tmp_path / "store")
    batch, forward = share(job, [job.images.dataset[0]], job.cells, 4)
    assert torch.equal(forward.logits, ForwardPass(job.network, batch.images).logits)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same methods and metrics twice in one folder, the second time in bfloat16."""
    folder = tmp_path_factory.mktemp("both")
    asked = ["method=[gradcam,rise]", "method.rise.masks=20", "metric=[insertion,pointing_game]"]
    for more in ([], [HALF]):
        words = [*HERE, *asked, "metric.insertion.steps=3", f"results={folder}", *more]
        assert launch.run(compose_config(words), words) == 0
    return folder


def test_rows_have_other_keys_and_a_word_in_the_column(both: Path) -> None:
    """All of Grad-CAM is one row and no other; all of RISE stands there twice."""
    rows = pd.read_csv(both / "tidy/results.csv").drop_duplicates(["cell_key", "metric_key"])
    found = {pair: sorted(part["precision"]) for pair, part in rows.groupby(["method", "metric"])}
    twice = ["float32", "float32+bfloat16"]
    assert found == {
        ("gradcam", "pointing_game"): ["float32"],
        ("gradcam", "insertion"): ["float32"],
        ("rise", "pointing_game"): twice,
        ("rise", "insertion"): twice,
    }
    of_gradcam, of_rise = (rows[rows["method"] == name] for name in ("gradcam", "rise"))
    assert of_gradcam["cell_key"].nunique() == 1 and of_rise["cell_key"].nunique() == 2
    halves = rows[rows["precision"] == "float32+bfloat16"]
    assert all("bfloat16" in text for text in halves["settings"])
    assert "forwards" not in json.loads(rows[rows["precision"] == "float32"]["settings"].iloc[0])["metric"]
    assert pd.read_csv(both / "tidy/runs.csv")["forward_precision"].unique().tolist() == ["same", "bfloat16"]


def test_the_plan_names_whose_passes_they_are(tmp_path: Path) -> None:
    words = [*HERE, "method=[gradcam,rise]", "metric=[insertion,pointing_game]", HALF]
    lines = list(build_run(compose_config(words), tmp_path).describe())
    said = "forward_precision=bfloat16: forward passes of rise; all of gradcam, insertion, pointing_game in float32"
    assert said in lines


def test_detectors_and_float64_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"forward_precision=bfloat16 with precision=float64: .*leave one of them"):
        compose_config([HALF, "precision=float64"])
    words = ["experiment=ood_embedded", "limit=4", "train.limit=40", "method=[msp]", HALF]
    with pytest.raises(ConfigError, match=r"forward_precision=bfloat16: msp read logits .*: leave it out"):
        build_run(compose_config(words), tmp_path)
