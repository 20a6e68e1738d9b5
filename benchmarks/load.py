"""How much memory of the host does loading a model take, beside the model on its device?

    python benchmarks/load.py              four files of 256 MiB; on a GPU where there is one
    python benchmarks/load.py --quick      a smoke test

A checkpoint of random weights in several files is read as a worker reads it. Without a GPU the
device is torch's `meta`, which keeps nothing, so that what is left is the host's part; every page
of the files is touched all the same. The peak of
the process's resident memory is compared with the largest file; target: at most 1.2 of it.

Prints all figures as JSON in its last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import surroundings

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
TARGET = 1.2


def write_checkpoint(folder: Path, shards: int, shard_bytes: int) -> None:
    """A Qwen3 model of a layer in each file, in bf16."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen3Config

    hidden, intermediate = 1024, 256
    intermediate = max(intermediate, (shard_bytes // 2 - 4 * hidden**2) // (3 * hidden))
    config = Qwen3Config(
        vocab_size=2048, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=shards, num_attention_heads=8, num_key_value_heads=8, head_dim=128,
        tie_word_embeddings=True, architectures=["Qwen3ForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    names: dict[str, str] = {}
    for number in range(shards):
        tensors = {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02
                   for name, shape in layer(number, hidden, intermediate).items()}  # fmt: skip
        if number == 0:
            tensors["model.embed_tokens.weight"] = torch.zeros(2048, hidden, dtype=torch.bfloat16)
            tensors["model.norm.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, folder / file, {"format": "pt"})
        names |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def layer(number: int, hidden: int, intermediate: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a decoder layer."""
    square, vector = (hidden, hidden), (hidden,)
    shapes = {
        **{f"self_attn.{name}_proj": square for name in "qkvo"},
        **{f"self_attn.{name}_norm": (128,) for name in "qk"},
        **{f"mlp.{name}_proj": (intermediate, hidden) for name in ("gate", "up")},
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": vector,
        "post_attention_layernorm": vector,
    }
    return {f"model.layers.{number}.{name}.weight": shape for name, shape in shapes.items()}


def measure(folder: Path) -> dict[str, Any]:
    """Load the checkpoint's weights; what that took."""
    import torch

    from rerankfleet.workers.engine import loader
    from rerankfleet.workers.engine.checkpoint import read_checkpoint

    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    if device.type == "cuda":
        torch.zeros(1, device=device)  # the context's own memory is not the load's
    else:
        touch_pages(loader)
    checkpoint = read_checkpoint(folder)
    files = {tensor.file for tensor in checkpoint.tensors.values()}
    largest = max(path.stat().st_size for path in files)
    _CLEAR.write_text("5")  # the peak starts anew
    before, began = resident_bytes("VmRSS"), time.perf_counter()
    model = loader.empty_model(checkpoint, torch.bfloat16)
    loader.fill(model, checkpoint, lambda name: device)
    seconds, peak = time.perf_counter() - began, resident_bytes("VmHWM") - before
    total = sum(path.stat().st_size for path in files)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "meta",
        "files": len(files),
        "checkpoint_bytes": total,
        "largest_file_bytes": largest,
        "peak_host_bytes": peak,
        "peak_of_largest_file": round(peak / largest, 3),
        "target": TARGET,
        "seconds": round(seconds, 3),
        "gb_per_s": round(total / 1e9 / seconds, 2),
    }


def touch_pages(loader: Any) -> None:
    """Have each tensor that is read come from its file, as on its way to a GPU."""
    import torch

    tensor = loader._Reader.tensor

    def touched(self: Any, stored: Any, name: str) -> Any:
        value = tensor(self, stored, name)
        value.flatten().view(torch.uint8)[::4096].sum()
        return value

    loader._Reader.tensor = touched


def resident_bytes(field: str) -> int:
    """A field of this process's status."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Write a checkpoint, load it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small files, for a smoke test")
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    shard_bytes = (64 if options.quick else 256) << 20
    with tempfile.TemporaryDirectory() as work:
        write_checkpoint(Path(work), options.shards, shard_bytes)
        result = measure(Path(work))
    print(
        f"{result['files']} files of {result['largest_file_bytes'] >> 20} MiB: the host held "
        f"{result['peak_host_bytes'] >> 20} MiB at most, {result['peak_of_largest_file']} of one"
    )
    print(json.dumps({"benchmark": "load"} | surroundings() | result))


if __name__ == "__main__":
    main()
