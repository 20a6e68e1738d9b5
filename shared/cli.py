"""The command `rerank`: sub-commands gathered from both sides, errors as one sentence.

Exit codes: 0 ok, 1 failure, 2 usage, 3 partial failure, 130 interrupted.

Nothing heavy is imported before `main` runs: Ctrl-C ends it without a traceback from the beginning.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rerankfleet.shared.errors import ItemError, RerankError, UsageError
from rerankfleet.shared.shown import clean_log, tell

if TYPE_CHECKING:
    import typer

OK, FAILURE, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130


def outcome_code(*, scored: int, unscored: int) -> int:
    """The exit code of a command by its counts: whether some items, or all, have no score."""
    if not unscored:
        return OK
    return PARTIAL if scored else FAILURE


def configure_logs(level: str = "INFO") -> None:
    """Log to stderr in short lines with time and fields."""
    import logging

    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            clean_log,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def build() -> typer.Typer:
    """The whole command; nothing heavy is imported."""
    from importlib.metadata import entry_points

    import typer

    app = typer.Typer(
        name="rerank",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
        help="Rerank millions of (query, document) pairs with Qwen3 rerankers over a fleet of "
        "workers: every pair exactly once.",
    )

    @app.callback()
    def _root() -> None:
        configure_logs()

    for entry in sorted(entry_points(group="rerankfleet.commands"), key=lambda e: e.name):
        entry.load()(app)
    return app


def main() -> None:
    """Run `rerank`; an expected error is one sentence on stderr, without a traceback."""
    try:
        _open_closed_streams()
        code = build()(standalone_mode=False, prog_name="rerank")
        sys.stdout.flush()  # so that a full disk is noticed here
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has left
        code = FAILURE
        _drop_output()
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else OK)


def _open_closed_streams() -> None:
    """Give a process that was started with closed streams empty ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


def _drop_output() -> None:
    """Discard what is still to be written to standard output, which cannot be."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    """Say what went wrong in one sentence. Returns the exit code; raises what nobody expected."""
    if isinstance(error, RerankError):
        tell(f"rerank: {error.at_the_shell}")
        return USAGE if isinstance(error, UsageError | ItemError) else FAILURE
    if isinstance(error, OSError):
        why = error.strerror or error
        if error.filename:
            tell(f"rerank: {error.filename}: {why}")
        else:
            _drop_output()
            tell(f"rerank: the output cannot be written ({why}): write it elsewhere")
        return FAILURE
    if type(error).__module__.startswith("redis."):  # most commands never import it
        from rerankfleet.shared.state.connection import redis_unavailable

        tell(f"rerank: {redis_unavailable(error)}. Jobs continue when it is back")
        return FAILURE
    if type(error).__name__ == "Abort":  # the end of standard input, where something was asked
        return INTERRUPTED
    if isinstance(error, UnicodeEncodeError):  # bytes of an argument that are no text
        tell("rerank: an argument or a setting is not UTF-8: write it in UTF-8")
        return USAGE
    if hasattr(error, "format_message"):  # an error of the command line, by whichever click it is
        return _explain_usage(error)
    raise error


def _explain_usage(error: Any) -> int:
    """A wrong option or argument in one sentence; or the help, where nothing was written."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return USAGE
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "rerank"
    message = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    tell(f"rerank: {message}: see `{command} --help`")
    return USAGE


if __name__ == "__main__":
    main()
