"""A loaded model that scores packs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.errors import OutOfDeviceMemory
from rerankfleet.workers.batching.packing import Pack, Prices
from rerankfleet.workers.engine.attention import Attention, AttentionFactory, PerDeviceAttention
from rerankfleet.workers.engine.decoder import Decoder
from rerankfleet.workers.engine.failures import is_out_of_memory, told
from rerankfleet.workers.engine.layout import Layout, lay_out, lay_out_prefix
from rerankfleet.workers.engine.memory import gpu_bytes, peak_bytes
from rerankfleet.workers.engine.reference import Reference
from rerankfleet.workers.engine.self_test import SelfTest, run_self_test
from rerankfleet.workers.engine.tensor_cache import TensorCache
from rerankfleet.workers.engine.vision import Tower
from rerankfleet.workers.prompting.prompts import Prompter
from rerankfleet.workers.prompting.tokens import Tokens, Visual


class Engine:
    """Scores packs with one model on one device. One thread at a time."""

    def __init__(
        self,
        decoder: Decoder,
        prompter: Prompter,
        provenance: Provenance,
        fingerprint: str,
        attention: AttentionFactory,
        *,
        gathers: bool,
        tower: Tower | None,
        kept_bytes: int,
        seen_bytes: int,
        deterministic: bool,
        device_name: str,
        reference: Reference,
    ) -> None:
        self.prompter = prompter
        self.provenance = provenance
        self.fingerprint = fingerprint
        self.device_name = device_name
        self.decoder = decoder
        self.reference = reference
        self._attention = attention
        self._deterministic = deterministic
        self._tower = tower
        self.prefix_cache = TensorCache[Tokens](kept_bytes)
        self.feature_cache = TensorCache[Visual](seen_bytes)
        self.prices = Prices(
            self._tower_price,
            self.feature_cache,
            self.prefix_cache,
            decoder.gathered_price if gathers else 0.0,
        )

    @property
    def supports_images(self) -> bool:
        """Whether the model reads images."""
        return self._tower is not None

    @torch.inference_mode()
    def score(self, pack: Pack) -> list[float]:
        """Margins (z_yes - z_no) in the order of `pack.documents()`; NaN where not finite.

        Raises OutOfDeviceMemory when the pack does not fit. When deterministic, documents are
        computed one by one: all shapes, and so all roundings, depend on the pair alone.
        """
        packs = pack.apart() if self._deterministic else (pack,)
        return [margin for p in packs for margin in self._margins(p)]

    def _margins(self, pack: Pack) -> list[float]:
        try:
            states = self.prefix_cache.get(
                [part.tokens for part in pack.parts], self._compute_prefixes
            )
            layout = lay_out(pack)
            margins: list[float] = self.decoder.margins(
                layout,
                states[0] if len(states) == 1 else torch.cat(states, dim=1),
                self._attend(layout),
                self._visual_features(layout),
            ).tolist()
            return margins
        except Exception as error:
            if is_out_of_memory(error):
                raise _out_of_memory(pack) from error
            raise

    @torch.inference_mode()
    def hidden(self, pack: Pack, layers: int) -> Tensor:
        """[documents, hidden] of the last tokens after the first layers; nothing is cached."""
        decoder = self.decoder.first(layers)
        states = [self._prefix(decoder, part.tokens) for part in pack.parts]
        layout = lay_out(pack)
        return decoder.hidden(
            layout, torch.cat(states, 1), self._attend(layout), self._visual_features(layout)
        )

    def free(self) -> None:
        """Free device memory: scratch, cached tensors, the allocator's cache."""
        self.prefix_cache.clear()
        self.feature_cache.clear()
        self.decoder.workspace.clear()
        if self._tower is not None:
            self._tower.free()
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def peak_memory_bytes(self) -> int:
        """Peak device memory since the last call; on a CPU the process's resident memory."""
        return peak_bytes(self.decoder.devices)

    @property
    def lookups(self) -> dict[str, tuple[int, int]]:
        """Hits and misses of the caches of prefixes and of visual features."""
        return {
            "prefix": (self.prefix_cache.hits, self.prefix_cache.misses),
            "vision": (self.feature_cache.hits, self.feature_cache.misses),
        }

    def gpu_bytes(self) -> dict[str, int]:
        """Memory of its fullest GPU: used, reserved, free, total; empty on a CPU."""
        return gpu_bytes(self.decoder.devices)

    def self_test(self) -> SelfTest:
        """Compare the fast path with the unmodified model, and time it; see `self_test.py`.

        Runs in a short-lived thread, for the same reason as `load_engine`. Raises ModelRefused,
        whatever went wrong, unless the device is to blame: see `failures.told`.
        """
        parts = (self.score, self.hidden, self.decoder, self.prices, self.reference)
        reserved = self.prefix_cache.max_bytes + self.feature_cache.max_bytes
        with told("the self-test"), ThreadPoolExecutor(1, "self-test") as thread:
            return thread.submit(run_self_test, *parts, reserved_bytes=reserved).result()

    def _compute_prefixes(self, prefixes: Sequence[Tokens]) -> list[Tensor]:
        return [self._prefix(self.decoder, tokens) for tokens in prefixes]

    def _prefix(self, decoder: Decoder, tokens: Tokens) -> Tensor:
        layout = lay_out_prefix(tokens)
        return decoder.compute_prefix(layout, self._attend(layout), self._visual_features(layout))

    def _visual_features(self, layout: Layout) -> Tensor | None:
        """Features of a layout's images, in order; None without images."""
        if not layout.visuals:
            return None
        assert self._tower is not None, "only a VL prompter makes images"
        visuals = [visual for _, visual in layout.visuals]
        features = self._features_apart if self._deterministic else self._tower.features
        return torch.cat(self.feature_cache.get(visuals, features))

    def _tower_price(self, tokens: int) -> float:
        """Token-equivalents of the tower for an image, by the multiplications of both."""
        tower = self._tower.multiplications(tokens) if self._tower else 0
        return tower / self.decoder.multiplications_per_token

    def _features_apart(self, visuals: Sequence[Visual]) -> list[Tensor]:
        """Image by image, so that the bits do not depend on the other images."""
        assert self._tower is not None
        return [self._tower.features([visual])[0] for visual in visuals]

    def _attend(self, layout: Layout) -> Attention:
        decoder = self.decoder
        on = {
            device: self._attention(layout, decoder.heads, decoder.workspace, device)
            for device in decoder.devices
        }
        return on[decoder.device] if len(on) == 1 else PerDeviceAttention(on)


def _out_of_memory(pack: Pack) -> OutOfDeviceMemory:
    return OutOfDeviceMemory(
        f"a pack of {pack.pairs} pairs with {sum(map(len, pack.documents()))} tokens does not fit",
        hint="lower the batch size",
    )
