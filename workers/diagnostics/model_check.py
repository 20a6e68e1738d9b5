"""Checks that a model can give correct scores: tokeniser, template, ids and sizes, without torch.

The weights themselves are checked by the self-test when a worker starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rerankfleet.shared.content.options import PLAIN_OPTIONS
from rerankfleet.shared.errors import ModelRefused, UnknownModel
from rerankfleet.workers.diagnostics.checks import Check, broken, failed, ok, warning
from rerankfleet.workers.engine.checkpoint import Checkpoint, read_checkpoint
from rerankfleet.workers.engine.locate import resolve_model
from rerankfleet.workers.prompting.prompts import (
    SYSTEM_TURN,
    Prompt,
    Prompter,
    PromptRequest,
    TokenSource,
)
from rerankfleet.workers.prompting.templates import prompter_of
from rerankfleet.workers.prompting.text import SUFFIX as TEXT_SUFFIX
from rerankfleet.workers.prompting.vl import SUFFIX as VL_SUFFIX

QWEN_TOKENS = 151_643
"""Tokens of Qwen's vocabulary, without added ones: a tokeniser with fewer has another vocabulary,
whose ids cannot be checked."""
QWEN_SYSTEM_TOKENS = 39
QWEN_IDS = {
    **{"yes": 9693, "no": 2152},
    **{"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
}
QWEN_TEXT_IDS = {"<think>": 151667, "</think>": 151668}
QWEN_VL_IDS = {
    **{"<|vision_start|>": 151652, "<|vision_end|>": 151653},
    **{"<|image_pad|>": 151655, "<|video_pad|>": 151656},
}
QWEN_TURN = [151645, 198, 151644, 77091, 198]
QWEN_SUFFIXES = {
    TEXT_SUFFIX: [*QWEN_TURN, 151667, 271, 151668, 271],
    VL_SUFFIX: QWEN_TURN,
}
"""Ids by the authors' procedure with the published tokenisers."""

CONFIG_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_MISMATCH = "config.json and tokenizer.json belong to different models: download the model again"
_ANOTHER = "use the tokeniser that the model was published with"


def check_model(model: str) -> Iterator[Check]:
    """The findings for a model on this machine: a pocket model, a folder or a hub name."""
    try:
        folder = resolve_model(model, download=False)
    except UnknownModel as error:
        yield failed("model", error)
        return
    try:
        checkpoint = read_checkpoint(folder, download=False)
        yield ok("model", f"{folder}: {checkpoint.architecture}")
    except ModelRefused as error:
        yield failed("model", error)
        return
    config, tokenizer = checkpoint.config, checkpoint.tokenizer_folder
    try:
        source, prompter = TokenSource(tokenizer), prompter_of(tokenizer, config)
    except ModelRefused as error:
        yield failed("tokeniser", error)
        return
    yield from _ids(source, config)
    yield _template(source, prompter, config)
    yield from _sizes(source, checkpoint)


def _ids(source: TokenSource, config: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the ids of control tokens and answers are those of Qwen, and those of the config."""
    supports_images = "vision_config" in config
    names = QWEN_IDS | (QWEN_VL_IDS if supports_images else QWEN_TEXT_IDS)
    try:
        ids = {name: source.token(name) for name in names}
    except ModelRefused as error:
        yield failed("tokens", error)
        return
    answers = f"yes = {ids['yes']}, no = {ids['no']}"
    wrong = [f"{name} is {ids[name]}, not {id}" for name, id in names.items() if ids[name] != id]
    if source.size < QWEN_TOKENS:
        yield ok("tokens", f"{answers}; a vocabulary of its own with {source.size:,} tokens")
    elif wrong:
        yield broken("tokens", "; ".join(wrong), _ANOTHER)
    else:
        yield ok("tokens", f"{answers}; all control tokens as published")
    for field, name in CONFIG_IDS.items() if supports_images else ():
        if config.get(field) != ids[name]:
            yield broken(
                "token ids",
                f"config.json has {field} {config.get(field)}, the tokeniser {name} {ids[name]}",
                _MISMATCH,
            )


def _template(source: TokenSource, prompter: Prompter, config: Mapping[str, Any]) -> Check:
    """Whether the template's parts have the ids of the whole, and of the authors' procedure."""
    supports_images = "vision_config" in config
    suffix = VL_SUFFIX if supports_images else TEXT_SUFFIX
    body = (
        "<Instruct>: {}<Query>:{}\n<Document>:{}"
        if supports_images
        else "<Instruct>: {}\n<Query>: {}\n<Document>: {}"
    )
    instruction, query, document = prompter.default_instruction, "what is a list?", "A sequence."
    whole = source.encode_template(SYSTEM_TURN + body.format(instruction, query, document) + suffix)
    ((pair,),) = prompter.encode_all(
        [PromptRequest.of(query, [document])], max_length=PLAIN_OPTIONS.max_length
    )
    assert isinstance(pair, Prompt)
    pieces = [*pair.prefix, *pair.query, *pair.document]
    turn_ids = source.encode_template(suffix)
    if pieces != whole:
        return broken("template", "its parts have other ids than the whole prompt", _ANOTHER)
    if source.size < QWEN_TOKENS:
        return ok("template", f"{prompter.template}: parts and whole have the same ids")
    if turn_ids != QWEN_SUFFIXES[suffix]:
        return broken(
            "template", f"the assistant turn is {turn_ids}, not {QWEN_SUFFIXES[suffix]}", _ANOTHER
        )
    system_tokens = len(source.encode_template(SYSTEM_TURN))
    if system_tokens != QWEN_SYSTEM_TOKENS:
        return broken(
            "template",
            f"the system turn has {system_tokens} tokens, not {QWEN_SYSTEM_TOKENS}",
            _ANOTHER,
        )
    return ok("template", f"{prompter.template}: as in the authors' procedure")


def _sizes(source: TokenSource, checkpoint: Checkpoint) -> Iterator[Check]:
    """Whether tokeniser, config and weights agree on the number of tokens."""
    text = checkpoint.config.get("text_config", checkpoint.config)
    expected = int(text.get("vocab_size", 0))
    embeddings = [
        t for name, t in checkpoint.tensors.items() if name.endswith("embed_tokens.weight")
    ]
    rows = embeddings[0].shape[0] if embeddings else None
    if source.size > expected:
        yield broken(
            "vocabulary",
            f"the tokeniser has {source.size:,} tokens, the model {expected:,}",
            _MISMATCH,
        )
    elif rows is None:
        yield warning(
            "vocabulary", "the weights have no embedding by that name", "check the self-test's log"
        )
    elif rows != expected:
        yield broken(
            "vocabulary",
            f"the weights have {rows:,} token rows, config.json says {expected:,}",
            "download or save the model again",
        )
    else:
        yield ok("vocabulary", f"{source.size:,} tokens, {rows:,} rows")
