"""Models from a hub: at a revision, from a mirror, from the cache without a network, and without
the rights to read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, running_hub
from tests.support.wait import patient

SCRIPT = """
import sys
from rerankfleet.shared.errors import RerankError
from rerankfleet.workers.engine import resolve_model
try:
    print(resolve_model("owner/model", sys.argv[1] or None))
except RerankError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub(model_folders):
    with running_hub(model_folders["tied"]) as hub:
        yield hub


@pytest.fixture
def resolve(hub, tmp_path) -> Callable[..., str]:
    """What a process finds as `owner/model`, with the hub as its mirror and a cache of its own."""
    inherited = {
        n: v for n, v in os.environ.items() if not n.startswith("HF_") and "PROXY" not in n.upper()
    }

    def run(revision: str = "", **env: str) -> str:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, revision],
            env=inherited | own | {"HF_TOKEN": "hf_secret"} | env,
            capture_output=True,
            text=True,
            timeout=patient(120),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_a_model_comes_from_a_mirror_and_then_from_the_cache(hub, resolve, model_folders):
    folder = Path(resolve())

    assert folder.name == COMMIT
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (model_folders["tied"] / name).read_bytes()
    assert "Bearer hf_secret" in hub.tokens

    hub.requests.clear()
    assert resolve(HF_HUB_OFFLINE="1") == str(folder)
    assert hub.requests == []
    assert resolve(HF_ENDPOINT="http://127.0.0.1:9") == str(folder)  # nobody answers there


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, resolve):
    assert Path(resolve("v2")).name == COMMIT
    assert any(path.endswith("/revision/v2") for path in hub.requests)
    assert Path(resolve(COMMIT)).name == COMMIT
    assert "has no revision 'v9' on the hub: name a commit" in resolve("v9")


@pytest.mark.parametrize(
    ("refuses", "says"),
    [
        ((403, "GatedRepo"), "is gated: its owner has not granted access"),
        ((404, "RepoNotFound"), "neither a folder here nor a model on the hub"),
        ((403, ""), "refuses access to owner/model (403): set HF_TOKEN"),
        ((404, ""), "could not be downloaded from the hub (it answers 404)"),
    ],
)
def test_a_model_that_may_not_be_read_says_why(refuses, says, hub, resolve):
    hub.refuses = refuses
    said = resolve()
    assert says in said
    assert "hf_secret" not in said
    assert "127.0.0.1" not in said


def test_a_hub_that_does_not_answer_is_told_with_what_to_do(resolve):
    assert "could not be downloaded" in (said := resolve(HF_ENDPOINT="http://127.0.0.1:9"))
    assert "HF_ENDPOINT" in said
    assert "could not be downloaded" in resolve(HF_HUB_OFFLINE="1")


def test_a_cache_that_cannot_be_written_is_told(resolve, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = resolve(HF_HOME=str(tmp_path / "file/hf"))
    assert said.startswith("refused: owner/model")


def test_a_model_that_is_damaged_on_the_hub_is_refused_when_it_loads(hub, resolve, tmp_path):
    from rerankfleet.shared.errors import ModelRefused
    from rerankfleet.workers.engine import load_engine

    hub.folder = shutil.copytree(hub.folder, tmp_path / "cut")
    weights = hub.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelRefused, match="it has 5,000 bytes, not"):
        load_engine(resolve())
