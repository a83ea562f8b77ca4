"""Relevance methods on ResNet-50 and VGG16 at 224 px: floor (see bench/floors/relevance.py), ours, Zennit."""

from collections.abc import Callable, Iterator
from importlib.metadata import version

import pandas as pd
import torch
from zennit.composites import EpsilonPlus
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from bench.floors.relevance import RESNET50, VGG16, contests
from bench.floors.subject import BATCH, Runs, Subject, no_inplace
from bench.timing import race

CANONIZERS = ((RESNET50, ResNetCanonizer), (VGG16, VGGCanonizer))


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method and network."""
    for case, canonizer in CANONIZERS:
        subject = Subject.of(case.architecture, case.target, BATCH)
        peers: dict[str, Runs] = {
            "lrp_alpha1beta0": {f"zennit {version('zennit')} EpsilonPlus": _zennit(subject, canonizer())}
        }
        for method, runs in contests(subject, case).items():
            yield race(f"{method} {case.architecture} batch {BATCH}", runs | peers.get(method, {}))


def _zennit(subject: Subject, canonizer: object) -> Callable[[], object]:
    """Registered once, so that hooks and canonizers do not count."""
    module, inputs, labels = no_inplace(subject.architecture), subject.inputs, subject.targets.label
    composite = EpsilonPlus(canonizers=[canonizer], zero_params=["bias"])
    composite.register(module)

    def run() -> object:
        leaf = inputs.clone().requires_grad_()
        output = module(leaf)
        start = torch.zeros_like(output).scatter_(1, labels[:, None], output.detach().gather(1, labels[:, None]))
        return torch.autograd.grad(output, leaf, start)

    return run
