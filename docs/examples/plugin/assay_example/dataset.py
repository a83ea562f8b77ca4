"""A data set: drawn images of a coloured disc, whose place is known to the pixel."""

import torch
from assay.harness.types import Sample


class Discs:
    """A red, green or blue disc on grey noise, 64x64; every number is drawn from (seed, index)."""

    classes = ("red", "green", "blue")
    split = "test"

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        drawn = torch.Generator().manual_seed(1000 * self.seed + index)
        label, radius, x, y = (int(torch.randint(*ends, (), generator=drawn)) for ends in ENDS)
        place = torch.arange(64)
        disc = (place[None] - x) ** 2 + (place[:, None] - y) ** 2 <= radius**2  # [H,W]
        image = 0.3 + 0.2 * torch.rand(1, 64, 64, generator=drawn).repeat(3, 1, 1)
        image[label] += 0.4 * disc
        box = torch.tensor([[x - radius, y - radius, x + radius + 1, y + radius + 1]]).float()  # half-open
        return Sample(f"disc{index:04d}", image, (label,), (64, 64), {label: box}, mask=disc)

    def fingerprint(self) -> str:
        """Of all that decides the images; raise the number when the drawing changes."""
        return f"discs-1-{self.size}-{self.seed}"


ENDS = ((0, 3), (6, 12), (12, 52), (12, 52))  # of class, radius, x, y
