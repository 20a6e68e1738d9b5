"""The command `rerank`: sub-commands gathered from both sides, errors as one sentence.

Exit codes: 0 ok, 1 failure, 2 usage, 3 partial failure, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points

import structlog
import typer

from rerankfleet.shared.errors import RerankError, UsageError

PARTIAL = 3
INTERRUPTED = 130


def configure_logs(level: str = "INFO") -> None:
    """Log to stderr in short lines with time and fields."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def build() -> typer.Typer:
    """The whole command; nothing heavy is imported."""
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
        build()()
    except RerankError as error:
        sys.stderr.write(f"rerank: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"rerank: {error.filename or ''}: {error.strerror or error}\n")
        sys.exit(1)
    except Exception as error:
        if not type(error).__module__.startswith("redis."):  # most commands never import it
            raise
        from rerankfleet.shared.state.connection import redis_unavailable

        sys.stderr.write(f"rerank: {redis_unavailable(error)}. Jobs continue when it is back\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
