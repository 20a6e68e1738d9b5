"""The instruction of a query: its language selects one of the job's instructions by language.

The detector is lingua (the extra `languages`), which works offline and gives the same answer
everywhere. It compares only the job's languages and English: three of them take 130 MB and 15 µs
per query, all languages would take 1 GB and 9 s to load. So a query in another language is often
taken for the nearest one of the job's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.options import ENGLISH
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import JobSpec

if TYPE_CHECKING:
    from lingua import LanguageDetector

CONFIDENCE_MIN = 0.65
"""Below it a query has no language: for brand names and single words it would be a guess."""
TEXT_CHARACTERS = 1000
"""How much of a query is examined."""
DETECTORS_CACHED = 8
"""Sets of languages whose detectors one process caches."""


def instruction_for(query: Content, spec: JobSpec) -> str | None:
    """The job's instruction for the language of a query. None: the model's default.

    A query without text, in English, or in an uncertain language gets the job's plain instruction.
    Raises UsageError when the detector is needed and not installed.
    """
    detector = detector_of(spec)
    if detector is None:
        return spec.instruction
    guesses = detector.compute_language_confidence_values((query.text or "")[:TEXT_CHARACTERS])
    if not guesses or guesses[0].value < CONFIDENCE_MIN:
        return spec.instruction
    code = guesses[0].language.iso_code_639_1.name.lower()
    return spec.instructions.get(code, spec.instruction)


def detector_of(spec: JobSpec) -> LanguageDetector | None:
    """The detector of a job's languages; None when it has one instruction for all.

    Raises UsageError, naming the extra to install, when there is no detector.
    """
    return _detector(frozenset(spec.instructions)) if spec.instructions else None


@lru_cache(DETECTORS_CACHED)
def _detector(codes: frozenset[str]) -> LanguageDetector:
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError as error:
        raise UsageError(
            "the job has instructions by language, and no language detector is installed here",
            hint="pip install 'rerankfleet[languages]' where the worker runs",
        ) from error
    languages = [IsoCode639_1.from_str(code) for code in sorted({ENGLISH, *codes})]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*languages).build()
