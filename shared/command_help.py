"""What stands below the options in the help of a command: the settings that govern it, exit codes.

app.command(epilog=below("gateway_host", "gateway_port"))(gateway)
"""

from __future__ import annotations

from rerankfleet.shared.settings import Settings

FLEET = ("redis_url", "state_dir")
"""How a command finds its fleet."""
FILES = ("storage", "allowed_roots", "allowed_buckets")
"""Where a command and its fleet read and write files."""
_ALWAYS = ((0, "done"), (1, "failed"), (2, "wrong usage"))
SCORES = ((3, "some items have no score; 1 if none has"),)
WAITS = (*SCORES, (130, "interrupted: the job goes on"))


def below(*settings: str, codes: tuple[tuple[int, str], ...] = (), note: str = "") -> str:
    """The text below a command's options; an empty line is a line break there."""
    lines = [note] if note else []
    for name in settings:
        field = Settings.model_fields[name]
        default = field.default
        shown = f" (default {default})" if isinstance(default, str | int) and default else ""
        lines.append(f"RERANK_{name.upper()}: {field.description}{shown}")
    if settings:
        lines.append("All settings are environment variables: docs/settings.md lists them.")
    exits = ", ".join(f"{code} {meaning}" for code, meaning in (*_ALWAYS, *codes))
    return "\n\n".join([*lines, f"Exit codes: {exits}."])
