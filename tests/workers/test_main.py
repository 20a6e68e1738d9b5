"""How a worker's process ends: with 78 where a restart would not help, in one sentence each."""

from __future__ import annotations

import faulthandler

import pytest

from rerankfleet.shared.errors import (
    DeviceBroken,
    ModelRefused,
    OutOfDeviceMemory,
    RerankError,
    UnknownModel,
)
from rerankfleet.shared.processes import HOPELESS, REFUSED
from rerankfleet.workers import __main__ as process


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelRefused("the self-test failed", hint="try another kernel"), REFUSED),
        (UnknownModel("org/m has no revision 'v9' on the hub"), REFUSED),
        (OutOfDeviceMemory("other processes leave 3 GiB of cuda:0"), 1),  # until they end
        (DeviceBroken("the device does not work (GPU is lost)"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stops_a_start_is_one_sentence_and_a_status(error, status, monkeypatch, capsys):
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    monkeypatch.setattr(process, "work", fail)

    assert process.main(["--model", "m"]) == status

    assert (status in HOPELESS) == isinstance(error, ModelRefused | UnknownModel)
    assert isinstance(error, RerankError)
    assert capsys.readouterr().err.strip() == f"rerank worker: {error}"
