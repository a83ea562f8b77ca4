"""What is said of a user's own images: explain, detect."""

import json
import sys
from collections.abc import Collection, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import ConfigError
from ..overrides import quoted
from ..places import place
from ..results.terminal import grid
from .images import failed, job_of
from .options import composed

if TYPE_CHECKING:
    import pandas as pd

    from ..attribution.explain import Explained

METHODS = "method=[gradcam,liftcam,rap,gradient_hedge]"  # those of `explain`, unless a word chooses others
PAGED = 100  # images in the page, some MB each; those after them have their pictures alone
DIGITS = 6  # of probabilities and scores in JSON

as_json = click.option("--json", "as_json", is_flag=True, help="print a JSON object a line, for programs")


@click.command()
@composed("IMAGE... [KEY=VALUE]...")
@click.option(
    "--target",
    metavar="CLASS",
    help="top1 (default), top2, ..., or classes by name or index, with commas; the same as target=CLASS",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="default: <results>/explain")
@as_json
def explain(words: list[str], target: str | None, out: Path | None, as_json: bool) -> int:
    """Your own images: why does the network say so?

    An IMAGE is a file, or a folder of files. Written are a picture of each, NAME-explained.png with all methods side
    by side, and explained.html with the first hundred. The exit code is 1 when a method failed; the others are drawn.
    """
    from ..attribution.explain import Explained, draw, explanations
    from ..attribution.explain_page import write_page

    files, words = _images_of(words)
    asked, settings = _asked(words, target)
    job = job_of(_overrides(files, asked, settings))
    folder = out or place(job.config.results) / "explain"
    for caution in job.images.cautions(job.request.network):
        print(f"caution: {caution}", file=sys.stderr)
    failures: dict[str, str] = {}
    written: set[Path] = set()
    shown: list[Explained] = []
    for each in explanations(job, failures):
        path = _free(folder / f"{each.image.stem}-explained.png", written)
        draw(each, path)
        written.add(path)
        shown += [each] if len(shown) < PAGED else []
        print(_as_json(each, path) if as_json else _as_text(each, path), flush=True)
    page = folder / "explained.html"
    write_page(shown, len(written) - len(shown), job.config.model.name, failures, page)
    if not as_json:
        print(f"{len(written)} images: {page.absolute()}")
    return failed(failures)


@click.command()
@composed("IMAGE... [KEY=VALUE]...")
@click.option("--threshold", default="id95", show_default=True, help="id95 keeps 95 % of the data set; or a score")
@as_json
def detect(words: list[str], threshold: str, as_json: bool) -> int:
    """Your own images: in or out of the distribution.

    An IMAGE is a file, or a folder of files. The exit code is 1 when a detector failed; the others' verdicts are
    printed.
    """
    from ..detectors.judge import judge
    from ..engine.determinism import make_deterministic

    files, settings = _images_of(words)
    make_deterministic(1)
    made = judge(files, settings, threshold)
    for image, rows in made.verdicts.groupby("image", sort=False):
        print(_verdicts_as_json(str(image), rows) if as_json else _verdicts_as_text(str(image), rows))
    return failed(made.failures)


def _images_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that name images, and the others.

    Raises:
        ConfigError: none names an image.
    """
    files = [word for word in words if "=" not in word or Path(word).exists()]
    if not files:
        raise ConfigError("no image: give the names of image files, or of folders, beside KEY=VALUE")
    return files, [word for word in words if word not in files]


# explain


def _asked(settings: Sequence[str], target: str | None) -> tuple[str, list[str]]:
    """What is to be explained, from the option or from the word `target=`, and the other words."""
    said = [word.removeprefix("target=") for word in settings if word.startswith("target=")]
    if len(said) + (target is not None) > 1:
        raise ConfigError(f"--target {target or said[0]} and target={said[-1]}: give one of the two")
    return target or (said[0] if said else "top1"), [word for word in settings if not word.startswith("target=")]


def _overrides(files: Sequence[str], target: str, settings: Sequence[str]) -> list[str]:
    """The words that a config is composed of; the user's stand last."""
    named = ",".join(quoted(str(Path(file).absolute())) for file in files)
    is_rank = target.removeprefix("top").isdecimal() and target.startswith("top")
    classes = "" if is_rank else ",".join(quoted(name.strip()) for name in target.split(","))
    words = ["dataset=files", f"dataset.files=[{named}]", f"dataset.targets=[{classes}]"]
    words += [] if any(word.startswith("method=") for word in settings) else [METHODS]
    return [*words, f"protocol.targets={target if is_rank else 'labels'}", *settings]


def _free(path: Path, taken: Collection[Path]) -> Path:
    """The path, or one with a number, that no other image of this call has."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(each for each in chain([path], numbered) if each not in taken)


def _as_text(found: "Explained", path: Path) -> str:
    best = ", ".join(f"{each.name} {each.probability:.3f}" for each in found.best)
    return f"{found.image}: {best}\n  {path.absolute()}"


def _as_json(found: "Explained", path: Path) -> str:
    def told(classes: Sequence[Any]) -> list[dict[str, Any]]:
        return [{**each._asdict(), "probability": round(each.probability, DIGITS)} for each in classes]

    said = {"image": str(found.image), "best": told(found.best), "explained": told(found.classes)}
    return json.dumps({**said, "methods": [*found.maps], "picture": str(path.absolute())})


# detect


def _verdicts_as_text(image: str, rows: "pd.DataFrame") -> str:
    cells = [(row.method, f"{row.score:.4f}", f"{row.threshold:.4f}", row.verdict) for row in rows.itertuples()]
    table = grid(["method", "score", "threshold", "verdict"], cells)
    return f"{image}: {rows['predicted'].iloc[0]}\n{table}"


def _verdicts_as_json(image: str, rows: "pd.DataFrame") -> str:
    verdicts = rows[["method", "score", "threshold", "verdict"]].round(DIGITS).to_dict("records")
    return json.dumps({"image": image, "predicted": rows["predicted"].iloc[0], "detectors": verdicts})
