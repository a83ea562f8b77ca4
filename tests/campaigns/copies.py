"""The gate, run in copies of the checkout by processes forked from one that has imported libraries, nothing of ours.

A start of Python costs seconds of imports. Here one process imports what is not in the copies, and forks a child for
each run, which sees the copy alone: its code, its configs, its baselines.
"""

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("assay", "harness", "methods", "metrics", "datasets", "conf", "results/baselines", "run.py")
LIBRARIES = ("torch", "hydra.main", "pandas", "scipy.stats", "matplotlib.pyplot", "pyarrow.parquet", "PIL.Image")


class Done(NamedTuple):
    """Exit code of the comparison, and what it printed; what the run printed is in the copy's file `output`."""

    code: int
    text: str


def copy(folder: Path, source: Path = ROOT) -> Path:
    """The checkout's code, configs and baselines; of a copy, its files under other names of the same data."""
    link = shutil.copy2 if source == ROOT else os.link
    for name in COPIED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source / name, folder / name, copy_function=link, ignore=ignored)
        else:
            link(source / name, folder / name)
    return folder


def replace(path: Path, data: bytes) -> None:
    """New contents; the file that it was linked with keeps its own."""
    path.unlink()
    path.write_bytes(data)


class Gate:
    """Runs `run.py WORDS`, then `python -m harness check BASELINE results`, in a copy; one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork copies one thread alone
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen([sys.executable, __file__], env=environment, cwd="/", **pipes)

    def __call__(self, place: Path, words: list[str], baseline: str, results: str = "results/check") -> Done:
        """The comparison's answer; an exit code of the run itself does not count, as in `make check`."""
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None and stdout is not None
        check = ["check", baseline, results] if baseline else []
        print(json.dumps({"place": str(place), "run": [*words, f"results={results}"], "check": check}), file=stdin)
        stdin.flush()
        code = json.loads(stdout.readline())
        return Done(code, (place / "checked").read_text())

    def stop(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


def _serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in a forked child, the request that it is there for."""
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            return dict(json.loads(line))
        status = os.waitpid(pid, 0)[1]
        os.write(1, f"{json.dumps(os.waitstatus_to_exitcode(status))}\n".encode())
    return None


def _become(request: dict[str, Any]) -> int:
    """This process, a child, is the gate of a copy; returns the exit code of the comparison."""
    os.chdir(request["place"])
    sys.path[0] = request["place"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _redirect("output")
    sys.argv = ["run.py", *request["run"]]
    try:
        runpy.run_path("run.py", run_name="__main__")
    except SystemExit:
        pass
    except Exception as error:  # what a fault broke: its rows are missing
        print(f"{type(error).__name__}: {error}")
    _redirect("checked")
    program = importlib.import_module("assay.harness.commands.program")
    return int(program.call(request["check"])) if request["check"] else 0


def _redirect(name: str) -> None:
    """Both streams to a file of the copy."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


if __name__ == "__main__":
    for module in LIBRARIES:
        importlib.import_module(module)
    asked = _serve()
    sys.exit(0 if asked is None else _become(asked))
