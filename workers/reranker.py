"""The engine in your own process: no queue, no Redis, no second process.

from rerankfleet import Reranker

scores = Reranker("pocket-text").process(
    {"query": "how do I open a file?", "documents": ["Use open().", {"text": "A recipe."}]}
)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rerankfleet.shared.content.outcomes import Scored
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.profiles import resolve
from rerankfleet.shared.settings import Settings, read_environment
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.images.decode import prepare_image
from rerankfleet.workers.images.prepared import ImageRef, PreparedImage
from rerankfleet.workers.images.source import ImageSource
from rerankfleet.workers.images.turns import Caller
from rerankfleet.workers.pipeline import Scorer
from rerankfleet.workers.prompting.languages import detector_of

#: The caller holds the request already; no line of a file is read.
_NO_BOUND = 1 << 40


class Reranker:
    """One loaded model. Threads may share it; they are served one after another.

    options    fields of `rerankfleet.shared.content.options.ScoringOptions`, which
               docs/options.md lists; those about results and jobs have no effect here
    profile    has values for the options that are not given
    folder     where images may be read from, and relative paths start; images in S3 or on other
               hosts need `settings` that allow them
    engine     those of `rerankfleet.workers.engine.load.load`, as a mapping

    Raises UnknownModel or ModelRefused when the model cannot be used, UsageError for options.
    """

    def __init__(
        self,
        model: str,
        *,
        profile: str | None = None,
        folder: Path | str | None = None,
        settings: Settings | None = None,
        limit: Limit | None = None,
        engine: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        source = InputRef(uri="", size=0, tag="")
        settings = settings or read_environment()
        options = resolve(profile, options, settings.profiles)
        self._spec = make_spec(model=model, input=source, **options)
        detector_of(self._spec)
        self.engine = load_engine(model, **(engine or {}))
        self._limit = limit or self.engine.self_test().limit
        self._one_at_a_time = threading.Lock()  # the engine has one thread's scratch memory
        self._source: ImageSource | None = None
        if self.engine.supports_images:
            base = Path(folder).resolve() if folder else None
            self._source = ImageSource.of(settings, base)

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that decode images; not needed before the interpreter exits."""
        if self._source:
            self._source.close()

    def process(self, request: Mapping[str, Any]) -> list[float]:
        """Relevance scores (0 to 1) of a request's documents, in their order.

        `request`: {"query", "documents", "instruction"?}; a query or document is a text or
        {"text"?, "image"?, "video"?}, where images are URIs, paths or PIL images. Raises ItemError
        for a malformed request and for a document that cannot be scored.
        """
        return [self._spec.calibration.score(margin) for margin in self.margins(request)]

    def margins(self, request: Mapping[str, Any]) -> list[float]:
        """Like `process`, but the margins z_yes - z_no, by which documents are ranked."""
        return [result.margin for result in self.results(request)]

    def results(self, request: Mapping[str, Any]) -> list[Scored]:
        """Like `process`, with margins and the facts of images."""
        with self._one_at_a_time:
            return self._results(request)

    def _results(self, request: Mapping[str, Any]) -> list[Scored]:
        passed: dict[str, Any] = {}
        checked = slice_of(1, _without_images(request, passed), max_documents=_NO_BOUND)
        for failure in checked.failures:
            raise ItemError(failure.code, failure.message, hint=failure.hint)
        images = _PassedImages(self._source, passed) if self._source else None
        batcher = Batcher(self.engine, self._limit, waiting_tokens_max=_NO_BOUND)
        try:
            scorer = Scorer(self.engine.prompter, batcher, images)
            outcomes, _ = scorer.score([checked], self._spec, threading.Event())
        finally:
            batcher.close()
        for failure in (failure for outcome in outcomes for failure in outcome.errors):
            raise ItemError(failure.code, failure.message, hint=failure.hint)
        results = [result for outcome in outcomes for result in outcome.results]
        return sorted(results, key=lambda result: result.index)


class _PassedImages:
    """Images that the caller passed, by their placeholder paths; all others by their URIs."""

    def __init__(self, source: ImageSource, passed: Mapping[str, Any]) -> None:
        self._source, self._passed = source, passed

    def load(
        self, refs: Iterable[ImageRef], caller: Caller | None = None
    ) -> dict[ImageRef, PreparedImage | ItemError]:
        """See `prepare.ImageLoader`."""
        passed = {ref: self._passed[ref.uri] for ref in refs if ref.uri in self._passed}
        prepared = {ref: _prepared_or_error(image, ref) for ref, image in passed.items()}
        others = [ref for ref in refs if ref.uri not in self._passed]
        return prepared | self._source.load(others, caller)


def _prepared_or_error(image: Any, ref: ImageRef) -> PreparedImage | ItemError:
    try:
        return prepare_image(image, ref.options)
    except ItemError as error:
        return error


def _without_images(value: Any, passed: dict[str, Any]) -> Any:
    """The request with a placeholder path for each PIL image, which goes to `passed`."""
    if isinstance(value, Mapping):
        return {key: _without_images(v, passed) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_images(v, passed) for v in value]
    if hasattr(value, "getbands"):  # a PIL image
        path = f"given/{len(passed)}"
        passed[path] = value
        return path
    return value
