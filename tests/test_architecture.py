"""Folders are the architecture, and this checks it: who may import what, and what a door loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT)
    for side in ("shared", "producer", "workers")
    for path in (ROOT / side).rglob("*.py")
)
HEAVY = {"torch", "transformers"}
SIDES = {
    "shared": {"producer", "workers", "numpy", "PIL", "tokenizers", "fastapi"} | HEAVY,
    "producer": {"workers", "numpy", "PIL", "tokenizers"} | HEAVY,
    "workers": {"producer", "fastapi"},
}
"""What no module of a side may import."""

ONLY = {
    "redis": {"shared/store.py", "shared/fleet.py", "producer/local.py"},  # local: is it up yet?
    "boto3": {"shared/objects.py", "workers/images/fetch.py"},  # fetch: many small reads
    "botocore": {"shared/objects.py", "workers/images/fetch.py"},
    "kombu": {"shared/queue.py"},
    "lingua": {"workers/language.py"},
    "celery": {"shared/queue.py", "workers/__main__.py"},  # main: the signals of its process
}
"""The only modules that may import a library."""


def tree(module: Path) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


def imports(module: Path) -> set[str]:
    """The first names of everything that a module imports, at any depth of its code."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide where they go"
            found.add((node.module or "").partition(".")[0])
    return found


def modules_of(*parts: str) -> list[Path]:
    return [module for module in MODULES if module.parts[: len(parts)] == parts]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_from_both_sides_to_shared(module):
    assert imports(module).isdisjoint(SIDES[module.parts[0]])


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_known_in_its_own_place_only(library):
    users = {str(module) for module in MODULES if library in imports(module)}
    assert users <= ONLY[library]


def test_only_the_engine_knows_torch():
    users = {module for module in MODULES if imports(module) & HEAVY}
    assert users
    assert users <= set(modules_of("workers", "engine"))


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
        "workers/launcher.py",  # CUDA_VISIBLE_DEVICES is no setting of ours
    }
    users = {
        str(module)
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    engine = {str(module) for module in modules_of("workers", "engine")}
    assert users - engine <= allowed


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_and_public_name_says_what_it_is(module):
    found = tree(module)
    assert ast.get_docstring(found), module
    named = (ast.FunctionDef, ast.ClassDef)
    for node in found.body:
        if isinstance(node, named) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}: {node.name}"


DOORS = {
    "producer": "import producer; producer.Client",
    "the command": "from shared.cli import build; build()",
    "its help": "import sys; sys.argv = ['rerank', '--help']\n"
    "from shared.cli import build\n"
    "try: build()()\nexcept SystemExit: pass",
    "workers": "import workers",
    "the monitor": "import workers.monitor",
    "the coordinator": "import producer.coordinator",
    "the launcher": "import workers.launcher, workers.cli",
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_opens_without_loading_torch(door):
    code = (
        f"{DOORS[door]}\nimport sys\nprint(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.strip() == ""


def test_every_package_is_shipped():
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = set(config["tool"]["setuptools"]["packages"])
    sides = {".".join(module.parent.parts) for module in MODULES}
    assert shipped == sides | {"studies", "studies.resolution"}  # `rerank study resolution`
