"""The group of all commands: errors become one line and an exit code here, and nowhere else."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from .failure import INTERRUPTED, exit_code, in_one_line, is_everybodys, tell, wants_traceback
from .ranks import end_job, rank

__all__ = ["Commands", "RankedGroup"]


class RankedGroup(click.Group):
    """A group some of whose commands are for all ranks of a job; the others only the first rank runs."""

    parallel: frozenset[str] = frozenset()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a rank that it is not for ends here."""
        found = super().resolve_command(ctx, args)
        if rank() > 0 and found[0] not in self.parallel:
            raise click.exceptions.Exit(0)
        return found


class Commands(RankedGroup):
    """The group of all commands, whose errors are one line each."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command, and end the program with its exit code."""
        code = self._run(args, prog_name or "pinstripe", complete_var, **extra)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _let_go_of_stdout()
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(self, args: Sequence[str] | None, prog_name: str, complete_var: str | None, **extra: Any) -> int:
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.Exit as leave:
            return leave.exit_code
        except click.UsageError as error:
            hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
            tell(error.format_message().rstrip(".") + hint)
            return error.exit_code
        except click.ClickException as error:
            tell(error.format_message())
            return error.exit_code
        except (KeyboardInterrupt, click.Abort):
            tell("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            _let_go_of_stdout()
            return 0
        except Exception as error:
            if wants_traceback():
                traceback.print_exc()
            elif not is_everybodys(error) or rank() == 0:
                known = isinstance(error, OSError | ValueError | RuntimeError)
                tell(in_one_line(error) + (f" ({type(error).__name__}; PINSTRIPE_DEBUG=1 shows where)" * (not known)))
            if not is_everybodys(error):
                end_job(exit_code(error))
            return exit_code(error)
        return result if isinstance(result, int) else 0


def _let_go_of_stdout() -> None:
    """Whoever read our output has gone: give what is still buffered to nobody, so that the interpreter's end is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
