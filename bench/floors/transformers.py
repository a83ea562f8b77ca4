"""Methods for transformers: the floor of all that are class-specific is a forward pass and an input gradient.

With weights that ask for gradients, which nobody computes: of frozen weights PyTorch's attention layer on the CPU
multiplies token by token (a batched product of as many products as tokens, as its tokens come first), in twice the time
of all passes.
"""

import torch
from assay.methods.attribution.attention import AttentionRollout, GenericAttention, TransformerAttribution
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rules import Epsilon
from torch import nn

from bench.floors.subject import Runs, Subject


def contests(subject: Subject) -> dict[str, Runs]:
    """The floor and ours, by method; the subject's is torchvision's vision transformer, whose head is drawn anew."""
    head = subject.network.module.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    torch.manual_seed(0)
    nn.init.normal_(head.weight, std=0.02)  # torchvision's are 0, which read no token
    subject.bare.requires_grad_(True)
    once: Runs = {"floor: 1F+1B": subject.passes()}
    signs: Runs = {"3F+3B: gradients, and layers by both signs of what they read": subject.passes(3)}
    return {
        "attnlrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="attnlrp"))},
        "cp_lrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="cp_lrp"))},
        "attention_rollout": once | {"assay": subject.ours(AttentionRollout())},
        "generic_attention": once | {"assay": subject.ours(GenericAttention())},
        "transformer_attribution": once | signs | {"assay": subject.ours(TransformerAttribution())},
    }
