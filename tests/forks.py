"""`run.py` in processes of their own that start in no time: forked from one that has imported all that a run needs.

A start of Python costs three seconds of imports, more than the small runs of the tests. Here one process a test process
imports, never runs anything itself, and forks a child for each run, which executes run.py as `python run.py` does: own
memory, own Hydra, own standard streams. Where the start itself is under test, `python run.py` is called instead.
"""

import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RUN = str(ROOT / "run.py")
IMPORTED = (
    "assay.harness.console",
    "assay.harness.launch",
    "assay.datasets.scenes",
    "assay.methods.attribution.cam",
    "assay.methods.attribution.gradient",
    "torch.fx.experimental.symbolic_shapes",  # by torch, at the first gradient
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
)


class Forked(NamedTuple):
    """A run under way; its output is in two files."""

    pid: int
    folder: Path

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return _ask({"ask": "poll", "pid": self.pid})

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return _ask({"ask": "wait", "pid": self.pid})

    def output(self) -> str:
        """What it has printed so far."""
        return (self.folder / "output").read_text()

    def errors(self) -> str:
        """What it has written to standard error so far."""
        return (self.folder / "errors").read_text()


def start(
    *words: str,
    environment: Mapping[str, str] | None = None,
    session: bool = False,
    place: Path = ROOT,
    before: Path | None = None,
) -> Forked:
    """Start `run.py WORDS` in a folder, with more environment variables, as a process group of its own if `session`.

    before: a script that the same process runs first, as one that replaces a function.
    """
    variables = {**os.environ, **(environment or {})}
    request = {"ask": "start", "words": words, "variables": variables, "session": session, "place": str(place)}
    request["before"] = before and str(before)
    pid, folder = _ask(request)
    return Forked(pid, Path(folder))


def run(*words: str) -> Forked:
    """`run.py WORDS` to its end, which must be a good one."""
    forked = start(*words)
    assert forked.wait() == 0, forked.output() + forked.errors()
    return forked


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends when this one closes its standard input, at the latest by ending."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # a fork copies one thread alone
    command = [sys.executable, __file__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)  # Ctrl-C is not for it


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def _serve(scratch: str) -> dict[str, Any] | None:
    """Answer requests until there are no more; in a forked child, the request that it is there for."""
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["ask"] == "start":
            request["folder"] = tempfile.mkdtemp(dir=scratch)
            if (pid := os.fork()) == 0:
                return request
            answer: Any = pid, request["folder"]
        else:
            answer = _exit_code(request["pid"], ended, os.WNOHANG if request["ask"] == "poll" else 0)
        with suppress(BrokenPipeError):  # who asked has been interrupted: no more requests either
            os.write(1, f"{json.dumps(answer)}\n".encode())
    return None


def _exit_code(pid: int, ended: dict[int, int], options: int) -> int | None:
    if pid not in ended:
        done, status = os.waitpid(pid, options)
        if done:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)


def _become(request: dict[str, Any]) -> None:
    """This process, a child, is `python run.py WORDS` from here on."""
    for name, number in {"output": 1, "errors": 2}.items():
        os.dup2(os.open(Path(request["folder"], name), os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["place"])
    own = [str(Path(each).absolute()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.argv, sys.path[:1] = [RUN, *request["words"]], [str(ROOT), *own]
    if request["before"]:
        runpy.run_path(request["before"])
    runpy.run_path(RUN, run_name="__main__")


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    folder = tempfile.mkdtemp(prefix="assay-forks-")
    asked = _serve(folder)
    if asked is None:
        shutil.rmtree(folder)
    else:
        _become(asked)
