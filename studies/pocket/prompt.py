"""The text reranker's template as token ids, in the parts that training and scoring share.

A pair is head (system turn, instruction, query) + tail (document, closing turn). They are encoded
separately, split where the joint encoding has a boundary too, so that a query's head is computed
once for all its documents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tokenizers import Tokenizer

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Encodes pairs; control tokens come from the template alone, never from a user's text."""

    plain: Tokenizer
    prefix: list[int]
    suffix: list[int]
    yes: int
    no: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Prompt:
        """The fixed parts, encoded once, and a copy of the tokenizer without added tokens."""
        twin = json.loads(tokenizer.to_str()) | {"added_tokens": []}
        yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
        if yes is None or no is None:
            raise ValueError("the vocabulary must hold 'yes' and 'no' as single tokens")
        return cls(
            plain=Tokenizer.from_str(json.dumps(twin)),
            prefix=tokenizer.encode(PREFIX).ids,
            suffix=tokenizer.encode(SUFFIX).ids,
            yes=yes,
            no=no,
        )

    def head(self, query: str, instruction: str = DEFAULT_INSTRUCTION) -> list[int]:
        """Everything before the document's own text."""
        body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
        return self.prefix + self.plain.encode(body).ids

    def document(self, text: str) -> list[int]:
        """The document's own tokens."""
        return self.plain.encode(f" {text}").ids
