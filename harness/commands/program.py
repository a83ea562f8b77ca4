"""`python -m harness` and `assay`: the commands under one name, and what ends them."""

import signal
import sys
from collections.abc import Sequence

import click

from ..config import ConfigError, suggest
from ..console import FAILED, INTERRUPTED, WRONG_REQUEST, exit_code
from ..store import damage
from .configs import describe, list_groups, validate
from .images import gallery, maps, samples
from .keeping import export, publish
from .options import everywhere
from .own_images import detect, explain
from .planning import plan
from .ranking import rank
from .stored import check, collect, compare, gc, report, status, table
from .training import train

SUMMARY = "Everything but computing: list, describe, plan, collect, compare, draw, clean up."

EXAMPLES = """\b
examples:
  {program} ls                         # what there is
  {program} describe gradcam           # a config, and its class
  {program} plan experiment=embedded   # what a run would compute
  {program} compare gradcam center     # after a run of both
  {program} rank experiment=ood_embedded  # over its sets and seeds
  {program} table hedging_table1 --format md
  {program} check
  {program} gallery model=scenes_vgg --images 10
  {program} samples experiment=embedded  # pictures for the report
  {program} maps method=[gradcam] --images 10 --out maps
  {program} explain photo.jpg model=scenes_resnet target=top3
  {program} detect experiment=ood_embedded method=[knn] photo.jpg
  {program} export supplement.zip --anonymous

Computing is done by the other command: {other}
"""


class Program(click.Group):
    """Commands whose options may stand anywhere, in front of the command, too."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """With the options that every command takes."""
        cmd.params += everywhere()
        super().add_command(cmd, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command in front of the options that precede it."""
        return super().parse_args(ctx, self._command_first(ctx, args))

    def _command_first(self, context: click.Context, arguments: list[str]) -> list[str]:
        every = [option for command in self.commands.values() for option in command.params]
        known = {tuple(option.opts): option for option in every if isinstance(option, click.Option)}
        parser = click.Command(None, params=[*known.values()]).make_parser(context)
        parser.allow_interspersed_args = False  # it stops at the first word that is neither an option nor its value
        rest = parser.parse_args(list(arguments))[1]
        return [*rest[:1], *arguments[: len(arguments) - len(rest)], *rest[1:]]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command by its name; an unknown one is answered with the nearest."""
        if args[0] not in self.commands:
            raise click.UsageError(suggest(args[0], self.commands, "command"), ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, under the name by which the program was started."""
        other = "assay run --help" if ctx.info_name == "assay" else "python run.py --help"
        formatter.write_paragraph()
        formatter.write_text(EXAMPLES.format(program=ctx.info_name, other=other))


program = Program(
    help=SUMMARY, params=everywhere(), context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False
)
for _command in (
    *(list_groups, describe, validate, plan),
    *(status, collect, compare, rank, table, check, report, gc),
    *(gallery, maps, samples, explain, detect, train),
    *(publish, export),
):
    program.add_command(_command)


def main(name: str = "python -m harness") -> int:
    """Do what the process's command line asks for; returns its exit code.

    name: what the program is called in its help.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is not an error
    return call(sys.argv[1:], name)


def call(arguments: Sequence[str], name: str = "python -m harness") -> int:
    """The exit code of one call: 2 for a request that cannot be run, 1 for a failure, with the reason on stderr."""
    damage.found.clear()
    code = _answer(arguments, name)
    if not damage.found:
        return code
    from ..results.remedies import remedies

    for command in remedies([*damage.found]):
        print(f"makes what is damaged anew: {command}", file=sys.stderr)
    return code or FAILED


def _answer(arguments: Sequence[str], name: str) -> int:
    try:
        with program.make_context(name, list(arguments)) as context:
            return int(program.invoke(context))
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code
    except click.ClickException as error:
        print(f"error: {error.format_message().rstrip('.')}{_see(error)}", file=sys.stderr)
    except (ConfigError, OSError, damage.Incomplete) as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return WRONG_REQUEST


def _see(error: click.ClickException) -> str:
    """Which help says more."""
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context else ""
