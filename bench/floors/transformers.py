"""Methods for transformers: the floor of all that are class-specific is a forward pass and an input gradient.

With weights that ask for gradients, which nobody computes: of frozen weights PyTorch's attention layer on the CPU
multiplies token by token (a batched product of as many products as tokens, as its tokens come first), in twice the time
of all passes.
"""

from collections.abc import Callable

import torch
from assay.methods.attribution.attention import AttentionRollout, GenericAttention, TransformerAttribution
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.legrad import LeGrad
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rules import Epsilon
from torch import Tensor, nn

from bench.floors.subject import Runs, Subject


def contests(subject: Subject) -> dict[str, Runs]:
    """The floor and ours, by method; the subject's is torchvision's vision transformer, whose head is drawn anew."""
    head = subject.network.module.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    torch.manual_seed(0)
    nn.init.normal_(head.weight, std=0.02)  # torchvision's are 0, which read no token
    subject.bare.load_state_dict(subject.network.module.state_dict())
    subject.bare.requires_grad_(True)
    once: Runs = {"floor: 1F+1B": subject.passes()}
    return {
        "attnlrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="attnlrp"))},
        "cp_lrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="cp_lrp"))},
        "attention_rollout": once | {"assay": subject.ours(AttentionRollout())},
        "generic_attention": once | {"assay": subject.ours(GenericAttention())},
        "legrad": once | {"assay": subject.ours(LeGrad())},
        "gradcam": once | {"assay": subject.ours(GradCAM(layer=subject.layer))},
        "transformer_attribution": once
        | {"1F+1B and 3 products a layer, its rule's": _with_products(subject, 3)}
        | {"assay": subject.ours(TransformerAttribution())},
    }


def _with_products(subject: Subject, count: int) -> Callable[[], None]:
    """A forward pass and a gradient, and so many products of each linear layer of the blocks with all tokens.

    Three are what alpha 1, beta 0 cannot do without where inputs have both signs: |x| |w| beside the known x w, and on
    the way back one with w+ and one with w-. Not counted: what the first and the last block need not (some 8 %).
    """
    passes, weights = subject.passes(), _weights(subject.bare)
    tokens = (len(subject.inputs), subject.bare.get_parameter("encoder.pos_embedding").shape[1])
    inputs = {width: torch.randn(*tokens, width) for weight in weights for width in weight.shape}

    def run() -> None:
        passes()
        with torch.no_grad():
            for weight in weights:
                output = inputs[weight.shape[1]] @ weight.T
                for _ in range(count - 1):
                    output @ weight

    return run


def _weights(module: nn.Module) -> list[Tensor]:
    return [value for name, value in module.named_parameters() if name.startswith("encoder.layers") and value.ndim == 2]
