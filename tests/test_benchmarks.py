"""Benchmarks run to their last line, which is JSON. The figures are not judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.wait import patient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run_quickly(name: str) -> dict[str, Any]:
    """The parsed last line of a benchmark's quick run: what was measured, and where."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=patient(900))
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["benchmark"] == name
    assert result["cpu_count"] >= 1
    assert {"python", "rerankfleet"} <= set(result["versions"])
    assert "commit" in result
    return result


def test_the_image_benchmark_measures_both_sides_and_their_difference():
    result = run_quickly("images")

    assert result["images"]
    for image in (*result["images"], result["blur"]):
        assert image["ours_ms"] > 0
        assert image["pillow_ms"] > 0
        assert 0 < image["difference"] < 3


def test_the_benchmark_of_recovery_sees_every_shard_of_a_dead_worker_again():
    result = run_quickly("recovery")

    assert result["deaths"] == 1
    assert result["shards"] >= 2
    assert 0 < result["median_s"] <= result["longest_s"] < 300
    assert result["errors"] == 0


def test_the_benchmark_of_faults_samples_both_workers():
    result = run_quickly("faults")

    assert result["faults"]["jobs"] > 0
    for worker in result["workers"].values():
        assert len(worker["rss_mib_by_tenth"]) == len(worker["threads_by_tenth"]) == 10
        assert max(worker["files_by_tenth"]) > 0


def test_the_benchmark_of_decoding_ahead_decodes_every_image_in_each_turn():
    result = run_quickly("images_ahead")

    assert result["images"] > 0
    assert result["decode_s"] > 0
    assert result["device_s"] > 0
    assert result["job_s"] >= result["device_s"]


def test_a_load_holds_no_more_of_the_host_than_one_file():
    result = run_quickly("load")

    assert result["files"] == 4
    assert 0.5 < result["peak_of_largest_file"] <= result["target"] == 1.2


def test_the_vision_benchmark_measures_both_sides_on_the_same_pairs():
    result = run_quickly("vision")

    assert result["works"]
    for work in result["works"]:
        assert work["engine_pairs_per_s"] > 0
        assert work["authors_pairs_per_s"] > 0
        assert work["bound"] > 1
        assert work["largest_difference"] < 1e-4


def test_the_text_benchmark_measures_every_side_on_the_same_pairs():
    # given the benchmark with a tiny model, when it runs
    result = run_quickly("text")
    # then its last line describes what was measured, and with what
    assert result["device"] == "cpu"
    assert result["start_up_s"] > 0
    assert {"torch", "transformers"} <= set(result["versions"])
    assert {"model", "dtype", "threads", "card_batch", "st_batch"} <= set(result["config"])
    # and each side scored all pairs of each shape, with the same margins
    assert result["shapes"]
    for shape in result["shapes"]:
        assert shape["pairs"] == shape["queries"] * shape["documents"]
        assert shape["largest_difference"] < 1e-4
        assert set(shape["sides"]) == {"score", "queue", "card", "st"}
        for side in shape["sides"].values():
            assert math.isclose(side["pairs_per_s"] * side["seconds"], shape["pairs"], rel_tol=0.1)
            assert side["peak_rss_bytes"] > 50 << 20
            assert side["start_up_s"] > 0


@pytest.mark.parametrize("of", [[], ["--images"]], ids=["texts", "images"])
def test_the_adaptive_benchmark_compares_policies_with_fixed_limits(of):
    # given the benchmark with a tiny model
    command = [sys.executable, str(ROOT / "benchmarks" / "adaptive.py"), "--quick", *of]
    command += ["--seconds", str(patient(0.2)), "--policy-seconds", str(patient(0.8))]
    # when it runs
    process = subprocess.run(command, capture_output=True, text=True, timeout=patient(900))
    # then its last line has each fixed limit, the best of them, and the policies
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["benchmark"] == "adaptive"
    assert [fixed["limit_tokens"] for fixed in result["fixed"]] == [64, 128, 256, 512]
    best = next(f for f in result["fixed"] if f["limit_tokens"] == result["best_limit_tokens"])
    assert set(result["policies"]) == {"model", "tested", "thresholds"}
    for policy in result["policies"].values():
        ratio = policy["settled"]["tokens_per_s"] / best["tokens_per_s"]
        assert math.isclose(policy["settled"]["of_best"], ratio, rel_tol=1e-3, abs_tol=1e-4)
        assert policy["limits"][-1]["reason"]
    # and each policy started at the worst limit
    firsts = {name: policy["limits"][0] for name, policy in result["policies"].items()}
    assert firsts["model"]["tokens"] == firsts["tested"]["tokens"] == 64
    assert firsts["thresholds"]["pairs"] == 4


def test_the_controller_benchmark_compares_all_policies_and_draws_them(tmp_path):
    pytest.importorskip("matplotlib")
    # given three simulated devices
    plot = tmp_path / "traces.png"
    command = [sys.executable, str(ROOT / "benchmarks" / "controller.py"), "--quick"]
    # when the policies run on them
    process = subprocess.run(
        [*command, "--plot", plot], capture_output=True, text=True, timeout=patient(300)
    )
    # then its last line has every column of every policy; simulated figures are deterministic
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["benchmark"] == "controller"
    assert set(result["policies"]) == {"model", "thresholds", "aimd", "fixed"}
    columns = result["policies"]["model"]
    assert set(columns) == {"settled", "late", "oom", "oscillation", "recovered", "throughput"}
    assert columns["settled"]["most"] <= 20
    assert columns["late"]["most"] <= 0.05
    assert columns["oom"]["most"] <= 1
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_gateway_benchmark_measures_every_side_and_a_crowd():
    # given the benchmark with few requests
    command = [sys.executable, str(ROOT / "benchmarks" / "gateway.py"), "--quick"]
    command += ["--seconds", str(patient(1))]
    # when it runs
    process = subprocess.run(command, capture_output=True, text=True, timeout=patient(900))
    # then its last line has each side's latency, and the answers under load
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["benchmark"] == "gateway"
    assert set(result["latency"]) == {"engine", "client", "gateway", "plain"}
    for side in ("gateway", "plain"):
        crowd = result["load"][side]
        assert crowd["statuses"].keys() <= {"200", "429"}
        assert crowd["failures"] == 0
        assert crowd["statuses"]["200"] >= crowd["clients"]
        assert crowd["rss_end_bytes"] > 20 << 20


def test_the_worst_case_benchmark_measures_each_step_at_three_sizes():
    result = run_quickly("worst_case")

    assert len(result["cases"]) >= 20
    for case in result["cases"]:
        n, twice, four_times = case["sizes"]
        assert (twice, four_times) == (2 * n, 4 * n)
        assert len(case["seconds"]) == 3


def test_the_durability_benchmark_measures_each_kind_of_file_and_none_at_all():
    result = run_quickly("durability")

    kinds = {"none", "no sync", "every second", "every write"}
    assert set(result["jobs"]) == {"rerank score", *kinds}
    assert all(side["pairs_per_s"] > 0 for side in result["jobs"].values())
    assert set(result["shards"]) == kinds
    for steps in result["shards"].values():
        assert min(steps["claim_us"], steps["renew_us"], steps["commit_us"]) > 0
        assert 0 < steps["share_of_a_shard"] < 1
