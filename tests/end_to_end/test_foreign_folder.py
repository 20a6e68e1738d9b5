"""The command in a user's folder, whose own modules have the names of ours or of our libraries."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.stack import QUICK, RERANK, running_stack
from tests.support.wait import patient

PACKAGES = ("chaos", "producer", "shared", "studies", "workers")
SUBMIT = (RERANK, "submit", "--model", "pocket-text", "--wait")
MODULES = ("celery", "click", "json", "kombu", "logging", "redis", "structlog", "typer")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose modules must not be imported."""
    folder = tmp_path / "project"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
    files = [folder / name / "__init__.py" for name in PACKAGES]
    for path in (*files, *(folder / f"{name}.py" for name in MODULES)):
        path.write_text(f"raise RuntimeError('{path.name} of the working folder was imported')\n")
    request = {"id": "a", "query": "red chair", "documents": ["a red chair", "a blue table"]}
    (folder / "pairs.jsonl").write_text(json.dumps(request) + "\n")
    return folder


def test_a_job_is_ranked_in_a_folder_with_modules_of_the_same_names(
    folder: Path, tmp_path: Path
) -> None:
    with running_stack(tmp_path, {}, cwd=folder) as stack:
        done = subprocess.run(
            [*SUBMIT, "pairs.jsonl", "-o", "ranked.jsonl"],
            cwd=folder,
            env={**os.environ, **QUICK, "RERANK_STATE_DIR": str(stack.settings.state_dir)},
            capture_output=True,
            text=True,
            timeout=patient(90),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (line,) = map(json.loads, (folder / "ranked.jsonl").read_text().splitlines())
    assert [result["index"] for result in line["results"]] == [0, 1]
    assert "was imported" not in (tmp_path / "up.log").read_text()


@pytest.mark.parametrize("code", ["from rerankfleet import Client", "import rerankfleet"])
def test_the_package_is_imported_beside_folders_of_the_same_names(folder: Path, code: str) -> None:
    """Given a script of the user in that folder, beside packages only."""
    for name in MODULES:
        (folder / f"{name}.py").unlink()
    (folder / "script.py").write_text(f"{code}\n")
    run = subprocess.run(
        [Path(RERANK).with_name("python"), "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert run.returncode == 0, run.stderr
