"""`python -m harness`: everything but computing - list, describe, plan, collect, compare, draw, clean up."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from assay.harness.config import ConfigError, groups, suggest
from assay.harness.overrides import compose_config, take_allow_flag

from . import config as configs

EXAMPLES = """examples:
  python -m harness ls                                  every group and its choices
  python -m harness describe gradcam                    a config file, or the class behind it; or a cell key
  python -m harness plan experiment=embedded            what a run would compute, and how long it would take
  python -m harness compare gradcam center              paired differences with intervals
  python -m harness table hedging_table1 --format md    a paper's table: ours | reported | difference | n
  python -m harness check                               an embedded run against the committed baseline
  python -m harness gallery model=scenes_vgg --images 10
  python -m harness maps method=[gradcam] --images 10 --out maps
  python -m harness detect experiment=ood_embedded method=[energy,mahalanobis] --threshold id95 image.png

Computing is done by the other command: python run.py --help"""


def list_groups(arguments: argparse.Namespace) -> int:
    """Print the groups and their choices."""
    known = groups()
    if arguments.group and arguments.group not in known:
        raise ConfigError(suggest(arguments.group, known, "group"))
    for group, choices in known.items():
        if arguments.group in (None, group):
            print(f"{group}: {', '.join(choices)}")
    return 0


def describe(arguments: argparse.Namespace) -> int:
    """Print a config file with the documentation of its class, or a stored cell's identity."""
    name = arguments.name
    found = [configs.CONF / group / f"{name}.yaml" for group, choices in groups().items() if name in choices]
    for path in found:
        text = path.read_text()
        print(f"# {path.relative_to(configs.ROOT)}\n{text}")
        print(_documentation(text))
    if not found:
        _describe_cell(name, Path(arguments.results) / "store")
    return 0


def _documentation(text: str) -> str:
    """The docstring of the config's `_target_`, read from its source without importing it."""
    import ast

    target = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("_target_:")), "")
    module, _, name = target.rpartition(".")
    source = configs.ROOT / (module.removeprefix("assay.").replace(".", "/") + ".py")
    if not source.is_file():
        return ""
    nodes = ast.parse(source.read_text()).body
    made = [n for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
    return f"{target}\n\n{ast.get_docstring(made[0]) or ''}\n" if made else ""


def _describe_cell(prefix: str, root: Path) -> None:
    from assay.harness.store import store

    found = [cell for cell in store.cells(root) if len(prefix) >= 4 and cell.key.startswith(prefix)]
    if not found:
        known = {choice for choices in groups().values() for choice in choices}
        raise ConfigError(suggest(prefix, known, "config name, nor the beginning of a cell key"))
    for cell in found:
        print((cell.path / "cell.json").read_text())


def validate(arguments: argparse.Namespace) -> int:
    """Compose and build a config without computing; without overrides, compose every choice of every group."""
    if arguments.overrides:
        from assay.harness.attribution.plan import build_job
        from assay.harness.detectors.plan import build_detection, detects

        config = compose_config([*arguments.overrides, "dry_run=true"])
        make = build_detection if detects(config) else build_job
        print(*make(config, Path(config.results) / "store").describe(), sep="\n")
        return 0
    count = 0
    for group, choices in groups().items():
        for choice in choices:
            value = f"[{choice}]" if group in configs.LIST_GROUPS else choice
            configs.validate(compose_config([f"{group}={value}"]))
            count += 1
    print(f"{count} configs compose")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Print the cells, what is missing of them, and a time estimate; of each job of a sweep."""
    for overrides in configs.sweep(arguments.overrides):
        _plan_job(overrides)
    return 0


def _plan_job(overrides: list[str]) -> None:
    from assay.harness.attribution.estimate import estimate, forward_seconds
    from assay.harness.attribution.plan import build_job
    from assay.harness.detectors.plan import build_detection, detects
    from assay.harness.engine.determinism import make_deterministic
    from assay.harness.engine.processes import process_count

    config = compose_config([*overrides, "dry_run=true"])
    print(f"# {config.model.name} on {config.dataset.name}")
    make_deterministic(config.compute.threads)
    if detects(config):
        detection = build_detection(config, Path(config.results) / "store")
        print(*detection.describe(), sep="\n")
        seconds = forward_seconds(detection)
        print(f"{detection.unseen()} images through the network, about {1000 * seconds:.1f} ms each in one process")
        return
    job = build_job(config, Path(config.results) / "store")
    print(*job.describe(), sep="\n")
    parts = estimate(job, Path(config.results) / "runs")
    for part in parts:
        each = 1000 * part.seconds_per_image
        print(f"  {part.method:<22} {part.images:>6} images x {each:8.1f} ms = {part.seconds:8.1f} s  ({part.source})")
    processes = process_count(job, len(job.missing()))
    total = sum(part.seconds for part in parts) / processes
    print(f"about {total:.0f} s with {processes} process{'es' * (processes > 1)}, and start-up")


def status(arguments: argparse.Namespace) -> int:
    """Print what the store holds: a line a metric of each cell."""
    from assay.harness.store import store

    for cell in store.cells(Path(arguments.results) / "store"):
        labels = cell.cell()["labels"]
        for key in cell.groups():
            group = cell.group(key)
            done = [int(path.stem.split("-")[1]) for path in sorted(group.path.glob("DONE-*.json"))]
            state = "FAILED" if group.failed.exists() else f"done {done}" if done else "incomplete"
            name = store.read_json(group.path / "group.json")["name"]
            print(
                f"{cell.key}  {labels['model']} {labels['dataset']} {labels['method']} {name}: "
                f"{len(group.shards())} shards, {state}"
            )
    return 0


def collect_tables(arguments: argparse.Namespace) -> int:
    """Rebuild the tidy tables from the store."""
    from assay.harness.results.tidy import collect

    results = Path(arguments.results)
    frame = collect(results)
    print(f"{len(frame)} rows: {(results / 'tidy' / 'results.csv').absolute()}")
    return 0


def compare_methods(arguments: argparse.Namespace) -> int:
    """Print paired differences of two methods."""
    from assay.harness.results.compare import compare

    frame = compare(Path(arguments.results) / "store", arguments.first, arguments.second)
    print(f"{arguments.first} - {arguments.second}, 95 % intervals:")
    print(frame.to_string(index=False, float_format="{:.3f}".format))
    return 0


def paper_tables(arguments: argparse.Namespace) -> int:
    """Regenerate the papers' tables: ours ± interval | reported | difference | n."""
    from assay.harness.results import tables

    results = Path(arguments.results)
    for table in tables.regenerate(arguments.names, results):
        print(tables.render(table, arguments.format) if arguments.format else tables.summary(table, results))
    return 0


def check_baseline(arguments: argparse.Namespace) -> int:
    """Compare an embedded run with the committed baseline, and name what changed."""
    from assay.harness.results import gate as check
    from assay.harness.store.store import write_atomically

    baseline, results = Path(arguments.baseline), Path(arguments.results)
    if arguments.update:
        print(check.update(baseline, results))
        return check.SAME
    made = check.check(baseline, results)
    for path, text in [(arguments.junit, check.junit(made)), (arguments.markdown, check.markdown(made).encode())]:
        if path:
            write_atomically(Path(path), text)
    print(*check.lines(made), sep="\n")
    return made.code


def report(arguments: argparse.Namespace) -> int:
    """Draw charts and one page from the tidy table."""
    from assay.harness.results.page import write_report
    from assay.harness.results.tidy import collect

    results = Path(arguments.results)
    frame = collect(results)
    if frame.empty:
        raise ConfigError(f"no results below {results.absolute()}: compute some with python run.py")
    print(f"report: {write_report(frame, results / 'report').absolute()}")
    return 0


def judge_images(arguments: argparse.Namespace) -> int:
    """Say of your own images whether they are in or out of the distribution, at a threshold."""
    from assay.harness.detectors.judge import judge
    from assay.harness.engine.determinism import make_deterministic

    images = [word for word in arguments.words if "=" not in word or Path(word).exists()]
    overrides = [word for word in arguments.words if word not in images]
    if not images:
        raise ConfigError("no image: python -m harness detect [KEY=VALUE ...] image.jpg ...")
    make_deterministic(1)
    frame = judge(images, overrides, arguments.threshold)
    print(frame.to_string(index=False, float_format="{:.4f}".format))
    return 0


def gallery(arguments: argparse.Namespace) -> int:
    """Draw maps over images."""
    from assay.harness.attribution.gallery import draw_gallery
    from assay.harness.attribution.plan import build_job
    from assay.harness.engine.determinism import make_deterministic

    config = compose_config([*arguments.overrides, "dry_run=true"])
    make_deterministic(config.compute.threads)
    job = build_job(config, Path(config.results) / "store")
    name = f"gallery-{config.model.name}-{config.dataset.name}.png"
    path = Path(arguments.out or Path(config.results) / "report" / name)
    print(f"{draw_gallery(job, path, arguments.images)} images: {path.absolute()}")
    return 0


def maps(arguments: argparse.Namespace) -> int:
    """Write maps to files: numbers (npz) and pictures (png)."""
    from assay.harness.attribution.maps import check_formats, export_maps
    from assay.harness.attribution.plan import build_job
    from assay.harness.engine.determinism import make_deterministic

    formats = arguments.format.split(",")
    check_formats(formats)
    config = compose_config([*arguments.overrides, "dry_run=true"])
    make_deterministic(config.compute.threads)
    job = build_job(config, Path(config.results) / "store")
    folder = Path(arguments.out or Path(config.results) / "maps" / f"{config.model.name}-{config.dataset.name}")
    made = export_maps(job, folder, arguments.images, formats)
    print(f"{made.maps} maps of {made.images} images: {folder.absolute()}")
    for name, why in made.failures.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    return int(bool(made.failures))


def collect_garbage(arguments: argparse.Namespace) -> int:
    """Remove leftovers of killed runs, and on request unfinished or old cells and cached features."""
    from assay.harness.store import garbage, store

    root = Path(arguments.results) / "store"
    horizon = time.time() - 86400 * arguments.older_than if arguments.older_than is not None else None
    leftovers = store.remove_leftovers(root) if arguments.yes else 0  # first: an abandoned lock protects nothing
    doomed = garbage.find(root, arguments.unfinished, arguments.features, horizon)
    for each in doomed:
        print(f"{'removing' if arguments.yes else 'would remove'} {each.path.stem} ({each.what})")
        if arguments.yes:
            each.remove()
    print(f"{len(doomed)} found, {leftovers} leftovers" + ("" if arguments.yes else "; nothing removed: add --yes"))
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train the embedded networks and write their weights."""
    from assay.harness.build import build
    from assay.harness.networks.train import RECIPES, train_embedded

    data = {}
    for split, size in (("train", 16000), ("val", 2000)):
        overrides = ["dataset=scenes_train", f"dataset.split={split}", f"dataset.size={size}"]
        data[split] = build(compose_config(overrides).dataset, "dataset", "scenes_train")
    for name in arguments.networks:
        if name not in RECIPES:
            raise ConfigError(suggest(name, RECIPES, "embedded network"))
        train_embedded(name, data["train"], data["val"], Path(arguments.out))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m harness", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], results: str = "results"
    ) -> argparse.ArgumentParser:
        summary = (function.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--results", default=results, help=f"results folder (default: {results})")
        command.set_defaults(function=function)
        return command

    def with_overrides(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for run.py")
        return command

    add("ls", list_groups).add_argument("group", nargs="?", help="only this group")
    add("describe", describe).add_argument("name", help="a choice of any group, or the beginning of a cell key")
    with_overrides(add("validate", validate))
    with_overrides(add("plan", plan))
    add("status", status)
    add("collect", collect_tables)
    comparison = add("compare", compare_methods)
    comparison.add_argument("first", help="method, or beginning of a cell key")
    comparison.add_argument("second", help="method, or beginning of a cell key")
    table = add("table", paper_tables)
    table.add_argument("names", nargs="*", metavar="NAME", help="files of conf/table (default: all)")
    table.add_argument("--format", choices=["md", "csv", "tex"], help="also print them")
    gate = add("check", check_baseline, "results/check")
    gate.epilog = "exit codes: 0 same, 1 changed (better is a change too), 2 cannot compare, 3 missing or failed rows"
    gate.add_argument(
        "--baseline", default="results/baselines/embedded.csv", metavar="FILE", help="default: %(default)s"
    )
    gate.add_argument("--update", action="store_true", help="make the results the baseline; refuses failed rows")
    gate.add_argument("--junit", metavar="FILE", help="write a JUnit XML report")
    gate.add_argument("--markdown", metavar="FILE", help="write a Markdown summary")
    add("report", report)
    drawing = with_overrides(add("gallery", gallery))
    drawing.add_argument("--images", type=int, default=10, help="how many (default: 10)")
    drawing.add_argument("--out", help="PNG file (default: <results>/report/gallery-MODEL-DATASET.png)")
    judging = add("detect", judge_images)
    judging.add_argument("words", nargs="+", metavar="IMAGE|KEY=VALUE", help="image files, and overrides as for run.py")
    judging.add_argument("--threshold", default="id95", help="id95 keeps 95 %% of the data set; or a score")
    exporting = with_overrides(add("maps", maps))
    exporting.add_argument("--images", type=int, default=10, help="how many (default: 10)")
    exporting.add_argument("--out", help="folder (default: <results>/maps/MODEL-DATASET)")
    exporting.add_argument("--format", default="npz,png", help="npz, png or both (default: %(default)s)")
    cleaning = add("gc", collect_garbage)
    cleaning.add_argument("--yes", action="store_true", help="really remove")
    cleaning.add_argument("--unfinished", action="store_true", help="also cells without any finished metric")
    cleaning.add_argument("--features", action="store_true", help="also cached features and fits; scores stay")
    cleaning.add_argument(
        "--older-than",
        type=float,
        metavar="DAYS",
        help="also cells, and of caches only those, of longer ago",
    )
    training = add("train", train)
    training.add_argument("--networks", nargs="+", default=["scenes_vgg", "scenes_resnet"], help="default: both")
    training.add_argument("--out", default="harness/networks/embedded", help="folder of the weights")
    return top


def main() -> int:
    """Entry point; the exit code is 2 for a request that cannot be run."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is not an error
    arguments = parser().parse_args(take_allow_flag(sys.argv[1:]))
    try:
        return int(arguments.function(arguments))
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
