"""Images that end the process that decodes them cost themselves alone, and no worker."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.support.drawn import png
from tests.support.poison import DECODER, WORKER, mortal_workers, poison_png
from tests.support.stack import Stack
from tests.support.wait import patient

MODEL = "pocket-vl"


def test_an_image_that_kills_its_decoder_is_an_error_and_all_others_get_scores(
    vl_stack: Stack, tmp_path: Path
) -> None:
    # given a job with images of which two kill the process that decodes them
    images = [poison_png(0), png(1), png(2), png(3), poison_png(4)]
    documents = [{"image": f"data:image/png;base64,{base64.b64encode(i).decode()}"} for i in images]
    source = tmp_path / "poison.jsonl"
    requests = [{"query": "a chair", "documents": documents}, {"query": "q", "documents": ["text"]}]
    source.write_text("".join(json.dumps(request) + "\n" for request in requests))
    with mortal_workers(vl_stack, tmp_path, MODEL) as deaths:
        pids = {worker.pid for worker in vl_stack.ready_workers()}
        # when it runs
        job_id = vl_stack.client.submit(source, model=MODEL)
        assert vl_stack.client.wait(job_id, timeout_s=patient(300)).state == "done"
        # then they alone have no score, and say why
        line, other = vl_stack.client.results(job_id)
        codes = {error["index"]: error["code"] for error in line["errors"]}
        assert codes == {0: "decode_crashed", 4: "decode_crashed"}
        assert {result["index"] for result in line["results"]} == {1, 2, 3}
        assert len(other["results"]) == 1
        # and each was tried once, by the same worker
        assert deaths() == {DECODER: 2}
        assert WORKER not in deaths()
        assert {worker.pid for worker in vl_stack.ready_workers()} == pids
