"""A method that fails where it is told to, for a folder of configs of a test's own."""

FAILS = '''
from dataclasses import dataclass
from typing import ClassVar
import torch
from assay.harness.types import Attribution, Needs


@dataclass(frozen=True)
class Fails:
    """Where `bad` is true."""

    bad: bool = False
    VERSION: ClassVar[int] = 1

    def needs(self):
        return Needs()

    def attribute(self, forward, targets, rng):
        if self.bad:
            raise RuntimeError("planted")
        return Attribution(torch.zeros(len(targets.image), 8, 8))
'''
