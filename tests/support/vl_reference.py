"""The authors' procedure for Qwen3-VL-Reranker, and contents to compare with it."""

from __future__ import annotations

import numpy as np
import torch

from rerankfleet.workers.batching.packing import Pack
from rerankfleet.workers.prompting.prompts import SYSTEM_TURN, Prompt, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import Visual
from rerankfleet.workers.prompting.vl import SUFFIX
from tests.support.vl_model import VISION_TOKENS

TOLERANCE = 1e-4
INSTRUCTION = "Find images of gates."


def image(rows: int, columns: int, seed: int = 0, frames: int = 1) -> Visual:
    """Noise of this many tokens."""
    rng = np.random.default_rng([rows, columns, seed])
    drawn = rng.integers(0, 256, (frames, rows * 32, columns * 32, 3), np.uint8)
    return Visual(f"{rows}x{columns}-{seed}-{frames}", tuple(drawn))


def video(steps: int, rows: int, columns: int, seed: int = 0):
    return tuple(
        (0.25 + step, image(rows, columns, seed + step, frames=2)) for step in range(steps)
    )


CONTENTS = {
    "text": Side("a stone gate"),
    "nothing": Side(),
    "image": Side(images=(image(3, 5),)),
    "text and image": Side("a gate by the river", (image(2, 2, 1),)),
    "several images": Side("three", (image(1, 1), image(4, 2), image(1, 6))),
    "video": Side("it moves", steps=video(2, 2, 3)),
    "video and image": Side("?", (image(2, 3),), video(1, 1, 2, 9)),
}


class Reference:
    """The authors' procedure in plain form: one string and one forward pass per pair."""

    def __init__(self, folder):
        from transformers import PreTrainedTokenizerFast
        from transformers import Qwen3VLForConditionalGeneration as Model

        self.model = Model.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        ids = self.tokenizer.convert_tokens_to_ids
        self.yes, self.no = ids(["yes", "no"])
        self.image, self.video = ids(["<|image_pad|>", "<|video_pad|>"])
        self.special = set(ids(["<|im_start|>", "<|im_end|>", *VISION_TOKENS]))

    def side(self, side: Side) -> str:
        text = ""
        for seconds, visual in side.steps:
            pads = "<|video_pad|>" * visual.tokens
            text += f"<{seconds:.1f} seconds><|vision_start|>{pads}<|vision_end|>"
        for visual in side.images:
            text += f"<|vision_start|>{'<|image_pad|>' * visual.tokens}<|vision_end|>"
        return (text + side.text) or "NULL"

    def ids(self, query: Side, document: Side, instruction: str, max_length: int) -> list[int]:
        text = (
            f"{SYSTEM_TURN}<Instruct>: {instruction}<Query>:{self.side(query)}"
            f"\n<Document>:{self.side(document)}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        end = len(self.tokenizer.encode(SUFFIX, add_special_tokens=False))  # 5 in Qwen's tokeniser
        body, tail = ids[:-end], ids[-end:]
        if len(body) > max_length:
            left = max_length - sum(i in self.special for i in body)
            kept = []
            for i in body:
                if i in self.special:
                    kept.append(i)
                elif left > 0:
                    kept.append(i)
                    left -= 1
            body = kept
        return body + tail

    @torch.inference_mode()
    def margin(self, query, document, instruction=INSTRUCTION, max_length=8192) -> float:
        ids = torch.tensor([self.ids(query, document, instruction, max_length)])
        inputs = {"mm_token_type_ids": (ids == self.image).int() + 2 * (ids == self.video).int()}
        images = [v for side in (query, document) for v in side.images]
        steps = [side.steps for side in (query, document) if side.steps]
        if images:
            inputs["pixel_values"] = torch.cat([self.patches(v.frames * 2) for v in images])
            inputs["image_grid_thw"] = torch.tensor([self.grid([v]) for v in images])
        if steps:
            videos = [[v for _, v in one] for one in steps]
            inputs["pixel_values_videos"] = torch.cat(
                [self.patches(v.frames) for video in videos for v in video]
            )
            inputs["video_grid_thw"] = torch.tensor([self.grid(video) for video in videos])
        logits = self.model(ids, use_cache=False, **inputs).logits[0, -1]
        return float(logits[self.yes] - logits[self.no])

    def grid(self, visuals) -> list[int]:
        height, width, _ = visuals[0].frames[0].shape
        return [len(visuals), height // 16, width // 16]

    def patches(self, frames) -> torch.Tensor:
        """[patches, channel · time · y · x], token by token."""
        values = np.stack(frames).astype(np.float32) / 255
        values = (values - 0.5) / 0.5
        _, height, width, _ = values.shape
        patches = []
        for y in range(0, height, 32):
            for x in range(0, width, 32):
                for dy in (0, 16):
                    for dx in (0, 16):
                        patch = values[:, y + dy : y + dy + 16, x + dx : x + dx + 16]
                        patches.append(patch.transpose(3, 0, 1, 2).reshape(-1))
        return torch.from_numpy(np.stack(patches))


def prompts_of(engine, query: Side, documents, **options) -> list[Prompt]:
    request = PromptRequest(query, documents, options.pop("instruction", INSTRUCTION))
    (prompts,) = engine.prompter.encode_all([request], **({"max_length": 8192} | options))
    return prompts


def score(engine, prompts) -> list[float]:
    pack, order = Pack.of(prompts)
    margins = np.empty(len(prompts))
    margins[order] = engine.score(pack)
    return margins.tolist()
