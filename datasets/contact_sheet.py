"""A picture of the embedded data: `python -m assay.datasets.contact_sheet docs/pictures/scenes.png`."""

import sys
from io import BytesIO
from pathlib import Path

from assay.harness.pictures import Size, encoded, panels
from assay.harness.types import Dataset, Sample
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from .scenes import Scenes
from .scenes_ood import KINDS, ScenesOOD

COLUMNS = 10


def _rows() -> dict[str, Dataset]:
    """Title -> dataset of each row."""
    rows: dict[str, Dataset] = {
        "scenes": Scenes("test", COLUMNS),
        "scenes_hard": Scenes("test", COLUMNS, objects=(1, 1), hard=True),
        "scenes_cue": Scenes("test", COLUMNS, cue_share=1.0, cue_only_targets=True),
    }
    return rows | {f"ood: {kind}": ScenesOOD(kind, "test", COLUMNS) for kind in KINDS}


def _show(axes: Axes, sample: Sample, classes: tuple[str, ...]) -> None:
    """One image with its boxes and the names of its targets."""
    axes.imshow(sample.image.permute(1, 2, 0).numpy(), extent=(0, sample.size0[1], sample.size0[0], 0))
    axes.set_xlabel(" ".join(classes[label] for label in sample.targets), fontsize=6, labelpad=1)
    axes.set(xticks=[], yticks=[])
    for box in (box for boxes in sample.boxes.values() for box in boxes.tolist()):
        corner, width, height = (box[0], box[1]), box[2] - box[0], box[3] - box[1]
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="white", linewidth=0.8))


def draw(path: Path) -> None:
    """Write the contact sheet: a row for each dataset."""
    rows = _rows()
    figure, grid = panels(COLUMNS * len(rows), COLUMNS, Size(1, 1.1))
    figure.set_layout_engine("constrained")
    for number, (title, dataset) in enumerate(rows.items()):
        line = grid[number * COLUMNS :][:COLUMNS]
        line[0].set_ylabel(title, fontsize=8)
        for index, axes in enumerate(line):
            _show(axes, dataset[index], tuple(dataset.classes))
    Image.open(BytesIO(encoded(figure, dpi=80))).convert("RGB").quantize(256).save(
        path, optimize=True
    )  # a palette: noise compresses badly


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
