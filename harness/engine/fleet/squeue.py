"""What Slurm says of our jobs."""

import subprocess
import time

from ...store.damage import say

COMMAND = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T %r"]
ASK_S = 5.0  # between two questions
ANSWER_S = 30.0  # for one answer: a controller that is busy is asked again
SILENT_S = 60.0  # then it is said, once

clock = time.monotonic


class Squeue:
    """Asked seldom enough for the scheduler; says when it has not answered for a minute."""

    def __init__(self) -> None:
        self.asked = self.heard = clock()
        self.said = False

    def states(self) -> dict[str, str] | None:
        """Of every job of ours that Slurm still knows, by number; None: it was asked just now, or does not answer."""
        if clock() - self.asked < ASK_S:
            return None
        self.asked = clock()
        answer = _answer()
        if isinstance(answer, str):
            self._silent(answer)
            return None
        self.heard, self.said = clock(), False
        return answer

    def _silent(self, why: str) -> None:
        if not self.said and clock() - self.heard >= SILENT_S:
            self.said = True
            say(f"squeue has not answered for {SILENT_S:g} s ({why}): workers that end are replaced when it does")


def _answer() -> dict[str, str] | str:
    """States by number; a text where there is no answer: why."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return " ".join(done.stderr.split())[-400:] or f"exit code {done.returncode}"
    return dict(_state(*line.split(maxsplit=2)) for line in done.stdout.splitlines() if line.strip())


def _state(number: str, state: str = "", reason: str = "") -> tuple[str, str]:
    """Of one line, which may be cut short; a held job will not go on: GONE."""
    return number, "GONE" if "held" in reason.lower() else state
