"""The engine in your own process: no queue, no Redis, no second process.

from rerankfleet import Reranker

scores = Reranker("pocket-text").process(
    {"query": "how do I open a file?", "documents": ["Use open().", {"text": "A recipe."}]}
)
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rerankfleet.shared.content.given import Given, file_bytes
from rerankfleet.shared.content.outcomes import Failure, Scored
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.formats.output import merge
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
        spec = make_spec(model=model, input=source, **options)
        # it cannot be resumed: an image that cannot be fetched is an outcome of its pair
        self._spec = spec.model_copy(update={"max_error_rate": 1.0})
        self._bytes_max = settings.image_bytes_max
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

    def process(self, request: Mapping[str, Any]) -> list[float | None]:
        """Relevance scores (0 to 1) of a request's documents, in their order; None for a document
        that cannot be scored: `results` says why.

        `request`: {"query", "documents", "instruction"?}; a query or document is a text or
        {"text"?, "image"?, "video"?}, where images are URIs, or paths in the reranker's folder, as
        texts; or bytes, paths as `pathlib.Path`, files open in binary mode, PIL images or numpy
        arrays (see `prepare_image`). Raises ItemError for a malformed request.
        """
        score = self._spec.calibration.score
        return [None if margin is None else score(margin) for margin in self.margins(request)]

    def margins(self, request: Mapping[str, Any]) -> list[float | None]:
        """Like `process`, but the margins z_yes - z_no, by which documents are ranked."""
        return [result.margin for result in self.results(request)]

    def results(self, request: Mapping[str, Any]) -> list[Scored | Failure]:
        """Like `process`, with margins and the facts of images: a row for each document, in their
        order. What cannot be scored is a Failure with `code`, `message` and `hint`; a score's
        `code` is None, and so is a failure's `margin`."""
        with self._one_at_a_time:
            return self._results(request)

    def _results(self, request: Mapping[str, Any]) -> list[Scored | Failure]:
        if not isinstance(request, Mapping):
            raise ItemError(
                "invalid_request",
                f"a request is of type {type(request).__name__}, expected a mapping",
                hint='write {"query": ..., "documents": [...]}',
            )
        passed = _Passed()
        checked = slice_of(1, request, max_documents=_NO_BOUND, replace_image=passed.add)
        images = _PassedImages(self._source, passed, self._bytes_max) if self._source else None
        batcher = Batcher(self.engine, self._limit, waiting_tokens_max=_NO_BOUND)
        try:
            scorer = Scorer(self.engine.prompter, batcher, images)
            outcomes, _ = scorer.score([checked], self._spec, threading.Event())
        finally:
            batcher.close()
        joined = merge(outcomes)
        errors = map(passed.without_name, joined.errors)
        rows: list[Scored | Failure] = [*joined.results, *errors]
        return sorted(rows, key=lambda row: row.index or 0)


class _Passed:
    """Images that a request holds, under names that no text in it can have."""

    def __init__(self) -> None:
        self._folder = secrets.token_hex(16)
        self._names: dict[int, str] = {}
        self.images: dict[str, Given] = {}

    def add(self, image: Given) -> str:
        """The name of an image: the same object has the same."""
        name = self._names.setdefault(id(image), f"{self._folder}/{len(self._names)}")
        self.images[name] = image
        return name

    def without_name(self, failure: Failure) -> Failure:
        """The failure, which names no image that has no address."""
        known = failure.image not in self.images
        return failure if known else failure.model_copy(update={"image": None})


class _PassedImages:
    """Images that the caller passed, by their names; all others by their URIs."""

    def __init__(self, source: ImageSource, passed: _Passed, bytes_max: int) -> None:
        self._source, self._passed, self._bytes_max = source, passed.images, bytes_max

    def load(
        self, refs: Iterable[ImageRef], caller: Caller | None = None
    ) -> dict[ImageRef, PreparedImage | ItemError]:
        """See `prepare.ImageLoader`."""
        refs = list(refs)
        passed = {ref: self._prepared(ref) for ref in refs if ref.uri in self._passed}
        others = [ref for ref in refs if ref.uri not in self._passed]
        return passed | self._source.load(others, caller)

    def _prepared(self, ref: ImageRef) -> PreparedImage | ItemError:
        image = self._passed[ref.uri]
        try:
            data = file_bytes(image, self._bytes_max)
            if data is None:
                return prepare_image(image, ref.options)
            return self._source.prepare(data, ref.options)  # in a process apart: it may be broken
        except ItemError as error:
            return error
