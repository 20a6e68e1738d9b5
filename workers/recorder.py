"""What a worker counts of its packs and pairs; a snapshot goes with each heartbeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.metrics import BAD_LINES, BATCH_SPLITS, PAIRS, STAGES, TOKENS, Labels
from rerankfleet.shared.observations import Observation
from rerankfleet.shared.tally import Tally


class Recorder(Tally):
    """The tally of one worker. Safe to use from many threads."""

    def pack(self, observation: Observation) -> None:
        """Count one forward pass."""
        self.observe(STAGES, "forward", value=observation.forward_s)
        if observation.oom:
            self.add(BATCH_SPLITS, "oom", amount=observation.pairs > 1)
            return
        self.add(TOKENS, "text", amount=observation.text_tokens)
        self.add(TOKENS, "image", amount=observation.image_tokens - observation.video_tokens)
        self.add(TOKENS, "video", amount=observation.video_tokens)
        self.add(TOKENS, "shared", amount=observation.shared_tokens)

    def pairs(self, slices: Sequence[Slice], outcomes: Sequence[SliceOutcome]) -> None:
        """Count the pairs of a committed shard, by modality and outcome, and the lines without any.
        The modality of a pair that failed before it became part of a slice is unknown."""
        modalities: dict[tuple[int, int | None], str] = {
            (piece.line, index): _modality(piece.query, document)
            for piece in slices
            for index, document in zip(piece.indices, piece.documents, strict=True)
        }
        counts: Counter[Labels] = Counter()
        for outcome in outcomes:
            line = outcome.line
            for scored in outcome.results:
                counts[modalities.get((line, scored.index), "unknown"), "ok"] += 1
            for failure in outcome.errors:
                if failure.index is None:
                    self.add(BAD_LINES)
                    continue
                modality = modalities.get((line, failure.index), "unknown")
                counts[modality, "rejected" if failure.rejected else "error"] += 1
        for labels, count in counts.items():
            self.add(PAIRS, *labels, amount=count)


def _modality(*contents: Content) -> str:
    if any(content.video for content in contents):
        return "video"
    return "image" if any(content.image for content in contents) else "text"
