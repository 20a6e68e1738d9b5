"""An instruction per language: which one a query gets, and that it is scored with that one."""

from __future__ import annotations

import json
import sys

import lingua
import pytest

import rerankfleet
from rerankfleet.shared.content.content import Content, Document
from rerankfleet.shared.content.options import ENGLISH, LANGUAGES
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.settings import Settings
from rerankfleet.workers import offline
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.prepare import Preparer
from rerankfleet.workers.prompting import languages
from rerankfleet.workers.prompting.languages import instruction_for
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens

INSTRUCTIONS = {
    "de": "Finde Stellen, die die Frage beantworten",
    "fr": "Trouve les passages qui répondent à la question",
    "ja": "質問に答える文章を探してください",
    "ru": "Найди отрывки, которые отвечают на вопрос",
    "ar": "ابحث عن الفقرات التي تجيب عن السؤال",
    "zh": "查找回答问题的段落",
}
QUERIES = {
    "de": "Wie öffne ich eine Datei und lese sie Zeile für Zeile?",
    "fr": "Comment ouvrir un fichier et le lire ligne par ligne ?",
    "ja": "ファイルを開くにはどうすればいいですか",
    "ru": "Как открыть файл и прочитать его построчно?",
    "ar": "كيف أفتح ملفا وأقرؤه سطرا سطرا؟",
    "zh": "如何打开文件并逐行读取",
}
PLAIN = "Find passages that answer the question"


class Prompter:
    """Records the instructions of its requests."""

    def encode_all(self, requests, *, max_length, max_tokens_per_doc=None, stop=None):
        self.instructions = [request.instruction for request in requests]
        prompt = Prompt(Tokens.of([1]), Tokens.of([2]), Tokens.of([3]))
        return [[prompt] * len(request.documents) for request in requests]


def spec_of(**options):
    return make_spec(model="m", input=InputRef(uri="", size=0, tag=""), **options)


@pytest.fixture
def no_detector(monkeypatch):
    """A worker that was installed without the extra."""
    monkeypatch.setitem(sys.modules, "lingua", None)
    languages._detector.cache_clear()
    yield
    languages._detector.cache_clear()


# ---- which one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", QUERIES)
def test_the_language_of_a_query_picks_its_instruction(code):
    spec = spec_of(instruction=PLAIN, instructions=INSTRUCTIONS)

    assert instruction_for(Content(text=QUERIES[code]), spec) == INSTRUCTIONS[code]


@pytest.mark.parametrize(
    "query",
    [
        {"text": "How do I open a file and read it line by line?"},  # English
        {"text": ""},
        {"text": " \n"},
        {"text": "12 345 €"},
        {"text": "🙂🙂"},
        {"text": "USB-C 3.2"},  # of no language for sure
        {"text": "hotel"},
        {"text": "어떻게 파일을 열 수 있나요?"},  # a script that no named language has
        {"image": ["a.png"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("plain", [PLAIN, None])
def test_all_other_queries_get_the_plain_instruction(query, plain):
    spec = spec_of(instruction=plain, instructions={"de": "Finde", "fr": "Trouve"})

    assert instruction_for(Content.model_validate(query), spec) == plain


def test_a_long_query_is_judged_by_its_beginning(monkeypatch):
    monkeypatch.setattr(languages, "TEXT_CHARACTERS", len(QUERIES["de"]))
    spec = spec_of(instructions=INSTRUCTIONS)

    assert instruction_for(Content(text=QUERIES["de"] + "and" * 10**6), spec) == INSTRUCTIONS["de"]


def test_the_requests_own_instruction_comes_first():
    prompter = Prompter()
    documents = {"documents": [Document(text="a")], "indices": [0]}
    own = Slice(line=1, query=QUERIES["de"], instruction="Mine", **documents)
    by_language = Slice(line=2, query=QUERIES["de"], **documents)
    english = Slice(line=3, query="how do I open a file in Python?", **documents)
    spec = spec_of(instruction=PLAIN, instructions={"de": "Finde"})

    Preparer(prompter).prepare([own, by_language, english], spec)

    assert prompter.instructions == ["Mine", "Finde", PLAIN]


def test_the_languages_that_may_be_named_are_those_of_the_detector():
    known = {one.iso_code_639_1.name.lower() for one in lingua.Language.all()}
    assert known >= LANGUAGES
    assert ENGLISH in LANGUAGES


# ---- without the extra --------------------------------------------------------------------------


def test_without_a_detector_nothing_is_scored_with_another_prompt(no_detector):
    piece = Slice(line=1, query="q", documents=[Document(text="a")], indices=[0])

    with pytest.raises(UsageError, match=r"pip install 'rerankfleet\[languages\]'"):
        Preparer(Prompter()).prepare([piece], spec_of(instructions={"de": "Finde"}))


def test_without_a_detector_other_jobs_are_scored(no_detector):
    piece = Slice(line=1, query="q", documents=[Document(text="a")], indices=[0])

    assert len(Preparer(Prompter()).prepare([piece], spec_of(instruction=PLAIN))) == 1


def test_a_missing_detector_is_reported_before_the_model_is_loaded(
    no_detector, jsonl, tmp_path, monkeypatch
):
    monkeypatch.setattr(offline, "load_engine", lambda *_, **__: pytest.fail("loaded"))
    source = jsonl({"query": "q", "documents": ["a"]})
    with pytest.raises(UsageError, match="no language detector is installed here"):
        offline.score_file(
            str(source), str(tmp_path / "out"), spec_of(instructions={"de": "a"}), Settings()
        )
    with pytest.raises(UsageError, match="no language detector is installed here"):
        rerankfleet.Reranker("pocket-text", instructions={"de": "Finde"})


# ---- the same scores ----------------------------------------------------------------------------


def test_margins_are_those_of_the_instruction_passed_with_each_request(
    load, model_folders, jsonl, tmp_path, monkeypatch, passages
):
    """Given queries of seven languages in turn, so that packs mix their instructions."""
    engine = load(model_folders["tied"])
    monkeypatch.setattr(offline, "load_engine", lambda *_, **__: engine)
    settings = Settings(batch_tokens=600, state_dir=tmp_path)
    queries = {**QUERIES, "en": "How do I open a file and read it line by line?"}
    lines = [
        {"id": f"{code}{n}", "query": f"{text} {n}", "documents": passages[n : n + 3]}
        for n in range(3)
        for code, text in queries.items()
    ]
    explicit = [
        line | {"instruction": INSTRUCTIONS.get(line["id"][:2], PLAIN)}  # each its own
        for line in lines
    ]

    def margins(lines, **options):
        output = tmp_path / "out.jsonl"
        source = jsonl(*lines)
        offline.score_file(str(source), str(output), spec_of(**options), settings, force=True)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        return {line["id"]: [r["margin"] for r in line["results"]] for line in lines}

    got = margins(lines, instruction=PLAIN, instructions=INSTRUCTIONS)

    want = margins(explicit)
    assert got.keys() == want.keys()
    for name, expected in want.items():
        assert got[name] == pytest.approx(expected, abs=1e-4)
    plain = margins(lines, instruction=PLAIN)
    assert got["en0"] == pytest.approx(plain["en0"], abs=1e-4)
    assert got["de0"] != pytest.approx(plain["de0"], abs=1e-3)


def test_a_reranker_picks_by_language_too(model_folders):
    request = {"query": QUERIES["de"], "documents": ["eine Datei", "ein Fluss"]}
    folder, limit = str(model_folders["tied"]), Limit(600)
    by_language = rerankfleet.Reranker(folder, limit=limit, instructions=INSTRUCTIONS)
    plain = rerankfleet.Reranker(folder, limit=limit)

    want = plain.margins(request | {"instruction": INSTRUCTIONS["de"]})

    assert by_language.margins(request) == pytest.approx(want, abs=1e-4)
    assert plain.margins(request) != pytest.approx(want, abs=1e-3)
