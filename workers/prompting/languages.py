"""Which instruction a query gets: its language picks one of those that a job has by language.

The detector, lingua, works offline and gives the same answer everywhere; an extra, `languages`. It
compares the job's languages and English alone: three of them take 130 MB and 15 µs a query, all
that it knows would take 1 GB and 9 s to load. So a query in a language that the job does not name
is often taken for the nearest one that it names.
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
"""Below it a query has no language: of brand names and single words it is a guess."""
TEXT_CHARACTERS = 1000
"""So much of a query is looked at."""
DETECTORS_KEPT = 8
"""Sets of languages whose detectors one process keeps at hand."""


def instruction_for(query: Content, spec: JobSpec) -> str | None:
    """A job's instruction for a query in its language. None: the model's default.

    What has no text, is in English or in no language for sure gets the job's plain instruction.
    Raises UsageError where the detector is needed and not installed.
    """
    detector = detector_of(spec)
    if detector is None:
        return spec.instruction
    found = detector.compute_language_confidence_values((query.text or "")[:TEXT_CHARACTERS])
    if not found or found[0].value < CONFIDENCE_MIN:
        return spec.instruction
    return spec.instructions.get(found[0].language.iso_code_639_1.name.lower(), spec.instruction)


def detector_of(spec: JobSpec) -> LanguageDetector | None:
    """What tells the languages of a job apart; None when it has one instruction for all.

    Raises UsageError naming the extra to install when there is no detector here.
    """
    return _detector(frozenset(spec.instructions)) if spec.instructions else None


@lru_cache(DETECTORS_KEPT)
def _detector(codes: frozenset[str]) -> LanguageDetector:
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder
    except ImportError as error:
        raise UsageError(
            "the job has instructions by language, and languages cannot be told here",
            hint="pip install 'rerankfleet[languages]' where the worker runs",
        ) from error
    wanted = [IsoCode639_1.from_str(code) for code in sorted({ENGLISH, *codes})]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*wanted).build()
