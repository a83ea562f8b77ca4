"""The largest change of a map in a box around the image."""

import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Batch, FramedMaps, Sample
from assay.metrics.sensitivity import MaxSensitivity
from conftest import Known, known
from torch import Tensor


def batch_of(images: Tensor) -> Batch:
    size = (images.shape[2], images.shape[3])
    return Batch.of([Sample(f"image{n}", image, (n,), size) for n, image in enumerate(images)])


def grey(network: Network, images: Tensor) -> Attribution:
    """A method whose map is the mean of the channels: it changes as the image does."""
    return Attribution(images.mean(1))


def gradient(batch: Batch, network: Network, images: Tensor) -> Attribution:
    forward = ForwardPass(network, images, input_graph=True)
    return Attribution(forward.input_gradient(batch.targets).sum(1))


def test_by_hand() -> None:
    """The map is the grey image, all .5: the change is the noise's grey, of which the longest counts; 1e-6, float32."""
    batch = batch_of(torch.full((2, 3, 4, 4), 0.5))
    forward = ForwardPass(known("tiny_vgg").network, batch.images)
    maps = FramedMaps.of(grey(forward.network, batch.images), batch, grey)
    found = MaxSensitivity(radius=0.1, samples=3).measure(batch, maps, forward)["sensitivity"]
    noise = SampleRng.of(0, "sensitivity noise", batch).noise((3, 4, 4), batch.images.device)
    lengths = (0.1 * (2 * noise.uniform(0, 3) - 1)).mean(2).flatten(2).norm(dim=2)  # [2,3]
    assert found.tolist() == pytest.approx((lengths.amax(1) / (0.5 * 4)).tolist(), abs=1e-6)


def test_a_constant_method_and_zeros() -> None:
    """A map that does not read the image does not change; one of zeros has no scale."""
    batch = batch_of(torch.rand(2, 3, 4, 4))
    forward = ForwardPass(known("tiny_vgg").network, batch.images)
    made = Attribution(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]))
    found = MaxSensitivity().measure(batch, FramedMaps.of(made, batch, lambda *_: made), forward)["sensitivity"]
    assert found[0] == 0 and found[1].isnan()


def test_against_captum(tiny64: Known) -> None:
    """Captum's `sensitivity_max` of the gradient with the same points; 1e-9 in float64."""
    sensitivity_max = pytest.importorskip("captum.metrics").sensitivity_max
    saliency = pytest.importorskip("captum.attr").Saliency(tiny64.network.module)
    batch, radius, samples = batch_of(tiny64.images), 0.05, 4
    forward = ForwardPass(tiny64.network, batch.images)
    again = lambda network, images: gradient(batch, network, images)  # noqa: E731
    maps = FramedMaps.of(again(tiny64.network, batch.images), batch, again)
    ours = MaxSensitivity(radius, samples).measure(batch, maps, forward)["sensitivity"]

    def moved(inputs: Tensor) -> Tensor:
        """Captum asks for all samples of an image, one after the other (mean 0, deviation 1: raw is normalised)."""
        noise = SampleRng.of(0, "sensitivity noise", batch).noise(inputs.shape[1:], inputs.device)
        drawn = noise.uniform(0, samples).flatten(0, 1)
        return inputs + radius * (2 * drawn - 1).double()

    def explained(inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        (shown,) = inputs if isinstance(inputs, tuple) else (inputs,)
        return (saliency.attribute(shown, target=target, abs=False).sum(1, keepdim=True),)

    theirs = sensitivity_max(
        explained, forward.inputs, moved, n_perturb_samples=samples, norm_ord="fro", target=torch.arange(4)
    )
    torch.testing.assert_close(ours, theirs.double(), atol=1e-9, rtol=0)


def test_more_points_and_batches(tiny64: Known) -> None:
    """More points can only raise it; an image alone has the value that it has among others (1e-12)."""

    def measured(images: Tensor, metric: MaxSensitivity) -> Tensor:
        batch = batch_of(images)
        again = lambda network, moved: gradient(batch, network, moved)  # noqa: E731
        maps = FramedMaps.of(again(tiny64.network, batch.images), batch, again)
        return metric.measure(batch, maps, ForwardPass(tiny64.network, batch.images))["sensitivity"]

    few, many = (measured(tiny64.images, MaxSensitivity(samples=count)) for count in (2, 6))
    assert (many >= few).all()
    torch.testing.assert_close(measured(tiny64.images[:1], MaxSensitivity(samples=6)), many[:1], atol=1e-12, rtol=0)


def test_maps_without_their_method() -> None:
    """Refused: there is nobody to ask again."""
    batch = batch_of(torch.rand(1, 3, 4, 4))
    maps = FramedMaps.of(Attribution(torch.ones(1, 4, 4)), batch)
    with pytest.raises(ValueError, match="come without their method"):
        MaxSensitivity().measure(batch, maps, ForwardPass(known("tiny_vgg").network, batch.images))


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="radius=0, samples=10"):
        MaxSensitivity(radius=0)
