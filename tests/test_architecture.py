"""Folders are the architecture: who may import what, and what each entrance loads."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.wait import patient

ROOT = Path(__file__).parent.parent
SIDES = ("shared", "producer", "workers")
MODULES = sorted(path.relative_to(ROOT) for side in SIDES for path in (ROOT / side).rglob("*.py"))
CHAOS = sorted(path.relative_to(ROOT) for path in (ROOT / "chaos").rglob("*.py"))
HEAVY = {"torch", "transformers"}

FORBIDDEN_SIDES = {
    "shared": {"producer", "workers", "studies", "chaos"},
    "producer": {"workers", "studies", "chaos"},
    "workers": {"producer", "studies", "chaos"},
}
FORBIDDEN_LIBRARIES = {
    "shared": {"numpy", "PIL", "tokenizers", "fastapi"} | HEAVY,
    "producer": {"numpy", "PIL", "tokenizers"} | HEAVY,
    "workers": {"fastapi"},
}
"""What no module of a side may import."""

ROOMS = {
    "shared/content": set(),
    "shared/storage": set(),
    "shared/state": {"shared/content"},
    "shared/formats": {"shared/content", "shared/storage"},
    "producer/inputs": set(),
    "producer/coordinator": {"producer/inputs"},
    "producer": {"producer/inputs", "producer/coordinator", "producer/terminal"},  # demo: tables
    "producer/terminal": set(),
    "producer/gateway/streaming": {"producer/gateway"},
    "producer/gateway/middleware": {"producer/gateway"},
    "workers/images": set(),
    "workers/prompting": {"workers/images"},
    "workers/batching": {"workers/prompting"},
    "workers/engine": {"workers/batching", "workers/prompting"},
    "workers/batch_limits": {"workers/batching"},
}
"""Which other rooms of its own side a room may import. A room that is not listed may import any."""

SPEAKS = {
    "redis": {"shared/state", "producer/embedded.py"},  # embedded: is the server up yet?
    "limits": {"shared/state/rates.py"},
    "boto3": {"shared/storage"},
    "botocore": {"shared/storage"},
    "urllib3": {"workers/images"},
    "kombu": {"shared/queue.py", "shared/hint_transport.py"},
    "lingua": {"workers/prompting/languages.py"},
    "celery": {"shared/queue.py", "workers/__main__.py"},  # main: the signals of its process
    "torch": {"workers/engine"},
    "transformers": {"workers/engine"},
}
"""The only rooms and modules that may import a library."""


def tree(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


def imports(module: Path) -> set[str]:
    """The dotted names of everything that a module imports, at any depth of its code."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where they go"
            assert node.module
            names.add(node.module)
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return names


def libraries(module: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def own(module: Path) -> set[Path]:
    """The modules of the project that a module imports."""
    paths = set()
    for name in imports(module):
        path = Path(*name.split(".")[1:])
        if name.startswith("rerankfleet.") and path.parts:
            paths |= {path.with_suffix(".py"), path / "__init__.py"} & {*MODULES, *CHAOS}
    return paths


def room_of(module: Path) -> str:
    return module.parent.as_posix()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_from_both_sides_to_shared(module):
    side = module.parts[0]
    assert {path.parts[0] for path in own(module)}.isdisjoint(FORBIDDEN_SIDES[side])
    assert libraries(module).isdisjoint(FORBIDDEN_LIBRARIES[side])


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_the_project_has_one_import_name(module):
    assert libraries(module).isdisjoint({*SIDES, "studies", "chaos"})


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    """In workers, a room does not import the top-level modules either: they are above it."""
    side = room.partition("/")[0]
    top = {side} - {"workers"}
    allowed = {room, *top, *ROOMS[room]}
    used = {
        room_of(path)
        for module in MODULES
        if room_of(module) == room
        for path in own(module)
        if path.parts[0] == side
    }
    assert used <= allowed


def test_no_modules_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter({module: own(module) - {module} for module in MODULES})
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("library", SPEAKS)
def test_a_library_is_known_in_its_own_room_only(library):
    users = {module for module in MODULES if library in libraries(module)}
    assert users or library not in HEAVY
    strangers = {m for m in users if not {m.as_posix(), room_of(m)} & SPEAKS[library]}
    assert not strangers


def test_only_the_queue_names_tasks():
    """Given any text in the code, not documentation, that looks like a task's name."""
    users = {
        str(module)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("rerank.")
    }
    assert users == {"shared/queue.py"}


def test_only_settings_read_the_environment():
    """Given `os.environ` and `os.getenv` anywhere in the code."""
    allowed = {
        "shared/settings.py",
        "shared/processes.py",  # passes it on to children
        "workers/gpus.py",  # CUDA_VISIBLE_DEVICES is no setting of ours
    }
    users = {
        str(module)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    engine = {str(module) for module in MODULES if room_of(module) == "workers/engine"}
    assert users - engine <= allowed


@pytest.mark.parametrize("module", [*MODULES, *CHAOS], ids=str)
def test_every_module_and_public_name_says_what_it_is(module):
    parsed = tree(module)
    assert ast.get_docstring(parsed), module
    named = (ast.FunctionDef, ast.ClassDef)
    for node in parsed.body:
        if isinstance(node, named) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}: {node.name}"


FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 450


@pytest.mark.parametrize("module", [*MODULES, *CHAOS], ids=str)
def test_files_and_functions_stay_short(module):
    assert len((ROOT / module).read_text().splitlines()) <= FILE_LINES_MAX
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree(module)):
        if isinstance(node, functions):
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


ENTRANCES = {
    "the client": "from rerankfleet import Client",
    "the package": "import rerankfleet",
    "the command": "from rerankfleet.shared.cli import build; build()",
    "its help": "import sys; sys.argv = ['rerank', '--help']\n"
    "from rerankfleet.shared.cli import build\n"
    "try: build()()\nexcept SystemExit: pass",
    "the monitor": "import rerankfleet.workers.monitor",
    "the coordinator": "import rerankfleet.producer.coordinator.process",
    "the launcher": "import rerankfleet.workers.launcher, rerankfleet.workers.cli",
}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_entrance_loads_no_torch(entrance):
    code = (
        f"{ENTRANCES[entrance]}\nimport sys\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=patient(60)
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.strip() == ""


def test_every_package_is_shipped():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = set(config["tool"]["setuptools"]["packages"])
    packages = {f"rerankfleet.{'.'.join(module.parent.parts)}" for module in MODULES}
    studies = {"rerankfleet.studies", "rerankfleet.studies.resolution"}  # `rerank study`
    assert shipped == packages | studies | {"rerankfleet", "rerankfleet.chaos"}


def test_every_file_that_a_package_needs_is_shipped():
    """Given all files beside the code that git tracks, but cards and notes."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tracked = subprocess.run(
        ["git", "ls-files", *SIDES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    data = {path for path in tracked if not path.endswith(".py")}
    shipped = {
        path.relative_to(ROOT).as_posix()
        for package, globs in config["package-data"].items()
        for pattern in globs
        for path in (ROOT / config["package-dir"][package]).glob(pattern)
    }
    assert data <= shipped
