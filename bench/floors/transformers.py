"""Methods for transformers: the floor of all that are class-specific is a forward pass and an input gradient."""

import torch
from assay.methods.attribution.attention import AttentionRollout, GenericAttention, TransformerAttribution
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.relevance.rules import Epsilon
from torch import nn

from bench.floors.subject import Runs, Subject


def contests(subject: Subject) -> dict[str, Runs]:
    """The floor and ours, by method; the subject's is torchvision's vision transformer."""
    head = subject.network.module.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    torch.manual_seed(0)
    nn.init.normal_(head.weight, std=0.02)  # torchvision's are 0, which read no token
    once = {"floor: 1F+1B": subject.passes()}
    return {
        "attnlrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="attnlrp"))},
        "cp_lrp": once | {"assay": subject.ours(LRP(Epsilon(), attention="cp_lrp"))},
        "attention_rollout": once | {"assay": subject.ours(AttentionRollout())},
        "generic_attention": once | {"assay": subject.ours(GenericAttention())},
        "transformer_attribution": once | {"assay": subject.ours(TransformerAttribution())},
    }
