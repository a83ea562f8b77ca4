"""Attribution methods that are fitted: the fit is made once, under a key of all that it depends on, or refused."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
import torch
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.estimate import estimate
from assay.harness.attribution.fitted import fit_missing
from assay.harness.attribution.gallery import draw_gallery
from assay.harness.attribution.plan import build_job
from assay.harness.attribution.run import AttributionRun
from assay.harness.config import ConfigError
from assay.harness.engine.costs import Summary
from assay.harness.engine.fitting import batches
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.launch import complete
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.methods.attribution.relevance import patterns
from torch import Tensor

BOTH = "method=[pattern_net,pattern_attribution]"


def run_of(root: Path, *overrides: str) -> AttributionRun:
    """Four scenes, patterns of six others in batches of four; one process."""
    torch.set_num_threads(1)
    base = ["limit=4", "compute.device=cpu", "compute.processes=1", "metric=[pointing_game]", "train.limit=6"]
    words = [*base, "compute.batch_size=4", "dataset@train=scenes_train", BOTH, *overrides]
    return AttributionRun.of(Request.of(compose_config(words), root / "store"))


def cells(run: AttributionRun) -> dict[str, AttributionCell]:
    """By method."""
    return {cell.name: cell for cell in run.job.cells if isinstance(cell, AttributionCell)}


def fits(run: AttributionRun) -> dict[str, Path]:
    """Where each method's fit is."""
    found = {}
    for name, cell in cells(run).items():
        assert cell.fitting is not None
        found[name] = cell.fitting.fit.path
    return found


def completed(run: AttributionRun) -> Summary:
    """Prepared, computed, summarised."""
    run.prepare(Rank(0, 1))
    run.compute(Rank(0, 1))
    return run.summarise()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each batch that a fit reads."""
    seen: list[int] = []
    original = patterns.fit_patterns

    def counting(network: Network, given: Iterable[Tensor], estimator: str) -> dict[str, Tensor]:
        def passed() -> Iterable[Tensor]:
            for images in given:
                seen.append(len(images))
                yield images

        return original(network, passed(), estimator)

    monkeypatch.setattr(patterns, "fit_patterns", counting)
    return seen


def test_one_fit_serves_both_methods_and_every_later_run(tmp_path: Path, counted: list[int]) -> None:
    """Made once in batches of compute.batch_size, and read by whatever asks for the same: another metric or setting."""
    run = run_of(tmp_path)
    summary = completed(run)
    assert not summary.failures
    assert counted == [4, 2]
    assert len({*fits(run).values()}) == 1
    again = run_of(tmp_path, "metric=[pointing_game,energy_pointing_game]", "method.pattern_net.reduce=sum")
    assert not completed(again).failures
    assert counted == [4, 2]
    assert fits(again) == fits(run)


def test_memory_shortage_halves_the_batch_of_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory for two images: 4 -> 2, said aloud, and all that was to be computed is there."""
    plain = Network.__call__

    def narrow(self: Network, inputs: Tensor) -> Tensor:
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("planted")
        return plain(self, inputs)

    monkeypatch.setattr(Network, "__call__", narrow)
    assert not completed(run_of(tmp_path, "method=[pattern_net]")).failures
    assert counted == [4, 2, 2, 2]
    assert "out of memory: going on with compute.batch_size=2" in capsys.readouterr().out


def test_keys_cover_the_training_images(tmp_path: Path) -> None:
    """Set, limit, seed of its order and estimator change the fit; batch size, workers and reduce do not."""
    first = run_of(tmp_path)
    for word in ("train.limit=7", "seed=1", "dataset@train=scenes_hard"):
        other = run_of(tmp_path, word)
        assert fits(other)["pattern_net"] != fits(first)["pattern_net"], word
        assert cells(other)["pattern_net"].store.key != cells(first)["pattern_net"].store.key, word
    other = run_of(tmp_path, "method.pattern_net.estimator=linear")
    assert fits(other)["pattern_net"] != fits(first)["pattern_net"]
    assert fits(other)["pattern_attribution"] == fits(first)["pattern_attribution"]
    for word in ("compute.batch_size=3", "method.pattern_net.reduce=sum"):
        assert fits(run_of(tmp_path, word)) == fits(first), word
    about = cells(first)["pattern_net"].about["identity"]["training"]
    assert about["images"] == 6
    assert about["data"]["dataset"]["_target_"] == "Scenes"
    assert "training" not in cells(run_of(tmp_path, "method=[gradcam]"))["gradcam"].about["identity"]


@pytest.mark.parametrize(
    "way",
    [
        ["compute.workers=1"],
        pytest.param(["compute.processes=2"], marks=pytest.mark.slow),
    ],
)
def test_workers_and_processes_do_not_change_a_bit(way: list[str], tmp_path: Path) -> None:
    """The fit byte for byte, and the per-sample tables."""
    tables = []
    for name, words in (("one", ["compute.shard_size=2"]), ("other", [*way, "compute.shard_size=2"])):
        run = run_of(tmp_path / name, *words)
        assert not completed(run).failures
        kept = cells(run)["pattern_attribution"].group("pointing_game").read(4)
        tables.append((fits(run)["pattern_net"].read_bytes(), kept.sort_values("sample_id", ignore_index=True)))
    assert tables[0][0] == tables[1][0]
    pd.testing.assert_frame_equal(tables[0][1], tables[1][1], check_exact=True)


def test_batches_keep_the_order_and_their_shapes(tmp_path: Path) -> None:
    """All images of the drawn part, in its order, at most so many together."""
    run = run_of(tmp_path, "train.limit=17")
    images = build_job(run.request.config, tmp_path).cells[0].fitting.images  # type: ignore[attr-defined]
    found = list(batches(run.request, images, 5))
    assert [len(each) for each in found] == [5, 5, 5, 2]
    expected = torch.stack([images.dataset[int(k)].image for k in images.order[:17]])
    assert torch.equal(torch.cat(found), expected)
    assert sorted(images.order[:17]) != list(range(17))  # drawn


def test_without_a_training_set_it_is_refused() -> None:
    """By name, with what to write; methods that learn nothing ask for none."""
    base = ["limit=8", "compute.device=cpu", "metric=[pointing_game]"]
    with pytest.raises(ConfigError, match=r"method pattern_net is fitted on a training set: dataset@train=NAME"):
        build_job(compose_config([*base, "method=[gradcam,pattern_net]"]), Path("nowhere"))
    build_job(compose_config([*base, "method=[gradcam]"]), Path("nowhere"))


def test_a_failed_fit_fails_its_method_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason, in every row of the method; the others go on, and the next run fits again."""

    def broken(network: Network, given: Iterable[Tensor], estimator: str) -> dict[str, Tensor]:
        raise ValueError("no patterns today")

    with monkeypatch.context() as patch:
        patch.setattr(patterns, "fit_patterns", broken)
        summary = completed(run_of(tmp_path, "method=[pattern_net,gradcam]"))
    assert summary.failures == {"pattern_net": "ValueError: no patterns today"}
    run = run_of(tmp_path, "method=[pattern_net,gradcam]")
    assert run.missing() == ["pattern_net"]
    assert not completed(run).failures


def test_a_fit_of_nan_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept."""
    monkeypatch.setattr(patterns, "fit_patterns", lambda *_: {"features.0": torch.full((1,), torch.nan)})
    run = run_of(tmp_path, "method=[pattern_net]")
    assert "the fit left NaN in features.0" in completed(run).failures["pattern_net"]
    assert not fits(run)["pattern_net"].exists()


def test_refresh_fits_anew_and_a_second_rank_does_not(tmp_path: Path, counted: list[int]) -> None:
    """`cache=refresh` forgets the fit; another rank finds it made."""
    completed(run_of(tmp_path, "method=[pattern_net]"))
    run = run_of(tmp_path, "method=[pattern_net]", "cache=refresh")
    run.prepare(Rank(0, 1))
    assert not fits(run)["pattern_net"].exists()
    fit_missing(run.job, Rank(0, 2))
    fit_missing(run.job, Rank(1, 2))
    assert counted == [4, 2, 4, 2]


def test_a_damaged_fit_is_made_anew(tmp_path: Path, counted: list[int]) -> None:
    """Before the loop, so that no method fails for it; the damaged file is set aside."""
    run = run_of(tmp_path, "method=[pattern_net]")
    completed(run)
    path = fits(run)["pattern_net"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    run = run_of(tmp_path, "method=[pattern_net]", "metric=[energy_pointing_game]")
    run.prepare(Rank(0, 1))
    _, summary = complete(run, Rank(0, 1))
    assert not summary.failures
    assert counted == [4, 2, 4, 2]
    assert path.read_bytes() == whole


def test_what_needs_a_fit_says_so(tmp_path: Path) -> None:
    """A gallery names the method that is not fitted; a plan times the others; after a run both go on."""
    run = run_of(tmp_path, "method=[pattern_net,gradcam]")
    drawn = draw_gallery(run.job, tmp_path / "gallery.png", 1)
    assert list(drawn.failures) == ["pattern_net"]
    assert "pattern_net is not fitted yet: evaluate it first" in drawn.failures["pattern_net"]
    assert "pattern_net" not in [each.method for each in estimate(run.job, tmp_path / "runs")]
    fit_missing(run.job, Rank(0, 1))
    assert "pattern_net" in [each.method for each in estimate(run.job, tmp_path / "runs")]
    assert not draw_gallery(run_of(tmp_path, BOTH).job, tmp_path / "gallery.png", 1).failures
