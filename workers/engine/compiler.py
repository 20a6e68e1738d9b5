"""Whether torch can compile kernels here: on CUDA, Triton builds a launcher with a C compiler and
Python's headers. Without torch."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

NO_COMPILER = "this machine has no C compiler with Python's headers"
REMEDY = "install gcc and Python's headers (in Debian: gcc libc6-dev python3-dev)"


def has_compiler() -> bool:
    """Whether there is a C compiler, `CC` or one of Triton's choice, and Python.h."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["clang", "gcc", "cc"]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return any(map(shutil.which, compilers)) and header.is_file()
