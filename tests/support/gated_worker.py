"""A worker whose device stops in a pack for as long as a file is there, and its launcher.

python gated_worker.py GATE --model M          one worker
python gated_worker.py GATE --launch --model M two of them, as on a host with two devices
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rerankfleet.shared.cli import configure_logs
from rerankfleet.shared.settings import load_settings
from rerankfleet.workers import launcher

POLL_S = 0.02


def score_slowly(gate: Path) -> None:
    """Let packs wait while the gate is there, except those of the self-test; one that waits says so
    in a file beside it."""
    from rerankfleet.workers.engine.engine import Engine

    score, self_test, tested = Engine.score, Engine.self_test, []

    def test(self: Engine) -> Any:
        result = self_test(self)
        tested.append(result)
        return result

    def gated(self: Engine, pack: Any) -> list[float]:
        while tested and gate.exists():
            (gate.parent / "in_pack").write_text("")
            time.sleep(POLL_S)
        return score(self, pack)

    Engine.score = gated  # type: ignore[method-assign]
    Engine.self_test = test  # type: ignore[method-assign]


def launch(gate: str, model: str) -> None:
    """Two such workers under the real launcher."""
    launcher.visible_gpus = lambda: ["0", "1"]
    children = launcher.children

    def gated(*arguments: Any) -> Any:
        for child in children(*arguments):
            python, *_, device = child.command
            command = [python, __file__, gate, "--model", model, "--device-name", device]
            child.command = command
            child.env = {**(child.env or {}), "CUDA_VISIBLE_DEVICES": "", "RERANK_DEVICE": "cpu"}
            yield child

    launcher.children = lambda *arguments: list(gated(*arguments))  # type: ignore[assignment]
    settings = load_settings()
    configure_logs(settings.log_level)
    launcher.launch(settings, model)


if __name__ == "__main__":
    gate, *arguments = sys.argv[1:]
    if arguments[0] == "--launch":
        launch(gate, arguments[-1])
        sys.exit(0)
    from rerankfleet.workers.__main__ import main

    score_slowly(Path(gate))
    sys.exit(main(arguments))
