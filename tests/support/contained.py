"""A process as in its container: no capabilities, and a file system that is read-only except for
some folders.

Without a container engine: in a mount namespace, which Linux gives an ordinary user too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

_SCRIPT = """
set -e
mount --make-rprivate /
for folder in {writable}; do mount --bind "$folder" "$folder"; done
while read -r _ _ _ _ at _; do
    case " {writable} /proc /sys /dev " in *" $at "*) continue ;; esac
    mount -o remount,bind,ro "$at" 2>/dev/null || true # one whose options are the host's own
done </proc/self/mountinfo
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""


def contained(*writable: Path) -> list[str]:
    """The words before a command that run it so, writing to these folders alone.

    The process keeps its id: what is sent to it reaches the command.
    """
    script = _SCRIPT.format(writable=" ".join(shlex.quote(str(folder)) for folder in writable))
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "--"]


@cache
def why_not() -> str | None:
    """Why processes cannot be contained here; None where they can."""
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "util-linux is not installed"
    tried = subprocess.run(
        [*contained(), "true"], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
    )
    return tried.stderr.strip() if tried.returncode else None
