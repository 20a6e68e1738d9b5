"""`rerank query`: a query and a few candidates, ranked on the spot and shown as a table.

Images in local files travel inside the request, since workers may be on other hosts; everything
else is `Client.rerank`.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rerankfleet.producer.terminal.tables import bar, one_line
from rerankfleet.shared.content.outcomes import REJECTIONS
from rerankfleet.shared.content.uris import DATA_URI_BYTES
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.sources import open_local

SUB_SCORES = {"visual_match": "VISUAL", "text_alignment": "WORDS", "consistency": "AGREE"}
NAME_SHOWN = 200
"""Characters of a text that are given to the table, which cuts them to its width."""

IMAGE_SHOWN = 40
"""Characters of an image's name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document as it is sent, and how it is shown."""

    document: Mapping[str, Any]
    name: str


@dataclass(slots=True)
class Request:
    """Collects a query and its candidates. Images of local files may have `bytes_max` in all, as
    the text that they become."""

    bytes_max: int
    candidates: list[Candidate] = field(default_factory=list)
    _bytes: int = 0

    def query(self, text: str | None, images: Sequence[str]) -> dict[str, Any]:
        """The query's content. Raises UsageError when it holds nothing."""
        content: dict[str, Any] = {"text": text} if text and text.strip() else {}
        if images:
            content["image"] = [self._image(image) for image in images]
        if not content:
            raise UsageError(
                "the query is empty", hint='say what is looked for: rerank query "a red chair" …'
            )
        return content

    def add_text(self, text: str) -> None:
        """A candidate of text."""
        self.candidates.append(Candidate({"text": text}, one_line(text[:NAME_SHOWN])))

    def add_image(self, image: str) -> None:
        """A candidate of one image, whose id is its name. Raises UsageError."""
        document = {"id": _unsigned(image), "image": self._image(image)}
        self.candidates.append(Candidate(document, _image_name(image)))

    def add_file(self, path: str) -> None:
        """A candidate a line, text or a JSON content; `-` is standard input. Raises UsageError."""
        for number, line in enumerate(_lines(path, self.bytes_max), 1):
            if not line.startswith("{"):
                self.add_text(line)
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"{path}, line {number} is not valid JSON",
                    hint='write text, or {"text"?, "image"?, "id"?}',
                ) from error
            self.candidates.append(Candidate(content, _content_name(content)))

    def _image(self, image: str) -> str:
        """A URI as it is, a path as a data: URI."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", image):
            return image
        path = Path(image).expanduser()
        try:
            size = 4 * -(-path.stat().st_size // 3)  # of base64
            self._bytes += size
            self._refuse_large(image, size)
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"the image {image} cannot be read ({error.strerror})", hint="check the path"
            ) from None
        kind = mimetypes.guess_type(path.name)[0] or ""
        kind = kind if kind.startswith("image/") else "image/unknown"  # the bytes tell
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"

    def _refuse_large(self, image: str, size: int) -> None:
        """Raise UsageError for an image, or all of them together, that no request can carry."""
        one_max = min(DATA_URI_BYTES, self.bytes_max)
        if size > one_max:
            said = f"the image {image} has {_mib(size)}, at most {_mib(one_max)} fit into a query"
        elif self._bytes > self.bytes_max:
            said = f"at most {_mib(self.bytes_max)} of images fit into a query, {image} is beyond"
        else:
            return
        raise UsageError(
            said,
            hint="make them smaller, name them as s3:// or https:// where workers may fetch them, "
            "or rank many with `rerank submit --catalog`",
        )


def _mib(size: int) -> str:
    """A size in base64 as that of the file."""
    count = size * 3 // 4
    return f"{count / 2**20:.1f} MiB"


def _lines(path: str, bytes_max: int) -> Iterator[str]:
    with open_local(path) as stream:
        data = stream.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise UsageError(
            f"{path} has more than {bytes_max} bytes",
            hint="`rerank submit` takes files of any size",
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (at byte {error.start})") from None
    yield from filter(None, map(str.strip, lines))


def _unsigned(image: str) -> str:
    """A path as it is; a URI without what may sign it; of a data: URI no more than its kind."""
    if image.startswith("data:"):
        return image.partition(";")[0][:IMAGE_SHOWN]
    return one_line(image.partition("?")[0] if "://" in image else image)


def _image_name(image: str) -> str:
    """The end of its name, in which images differ."""
    name = _unsigned(image)
    return name if len(name) <= IMAGE_SHOWN else f"…{name[1 - IMAGE_SHOWN :]}"


def _content_name(content: Mapping[str, Any]) -> str:
    """What a content shows of itself, whatever it holds."""
    images = content.get("image") or []
    names = [_image_name(str(i)) for i in (images if isinstance(images, list) else [images])]
    words = one_line(str(content.get("text") or "")[:NAME_SHOWN])
    known = "" if content.get("id") is None else one_line(f"[{content['id']}]")
    return "  ".join(filter(None, [known, *names, words])) or "–"


# ---- the table ----------------------------------------------------------------------------------


def ranking(line: Mapping[str, Any], candidates: Sequence[Candidate]) -> RenderableType:
    """A line of output for people: what was scored by rank; what was not apart, and why."""
    results, errors = line["results"], line["errors"]
    parts: list[RenderableType] = [_ranked(results, candidates)] if results else []
    rejected = [error for error in errors if error["code"] in REJECTIONS]
    failed = [error for error in errors if error["code"] not in REJECTIONS]
    for title, style, found in (("Rejected", "yellow", rejected), ("Failed", "red", failed)):
        if found:
            parts += [Text(), Text(f"{title}: {len(found)}", f"bold {style}")]
            parts.append(_refused(found, candidates))
    hidden = len(candidates) - len(results) - len(errors)
    more = f"{hidden} more with a lower score · " if hidden > 0 else ""
    by = line["provenance"] or {}
    said = f"{more}{by.get('model', 'no model')} · {by.get('dtype', '')} · {by.get('device', '')}"
    return Group(*parts, Text(), Text(one_line(said.rstrip(" ·")), "dim"))


def _ranked(results: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]) -> Table:
    subs = {key: name for key, name in SUB_SCORES.items() if "explain" in results[0]}
    facts = [_facts(found) for found in results]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    table.add_column("", justify="right")
    table.add_column("SCORE", no_wrap=True)
    for name in ("MARGIN", *subs.values()):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CANDIDATE", overflow="ellipsis", no_wrap=True, ratio=1)
    if any(facts):
        table.add_column("", style="dim", no_wrap=True)
    for rank, (found, said) in enumerate(zip(results, facts, strict=True), 1):
        score = found["relevance_score"]
        table.add_row(
            str(rank),
            Text(f"{bar(score, 8)} ", "cyan").append(f"{score:.3f}", "bold"),
            f"{found['margin']:+.2f}",
            *(_sub_score(found["explain"].get(key)) for key in subs),
            Text(candidates[found["index"]].name),
            *([said] if any(facts) else []),
        )
    return table


def _sub_score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _facts(found: Mapping[str, Any]) -> str:
    """What is said of a candidate beside its name: its images' sizes, and what was done."""
    sizes = [" × ".join(map(str, image["original"])) for image in found.get("images") or []]
    parts = [", ".join(sizes[:3]) + " px" if sizes else ""]
    if found.get("plain_margin") is not None and found["plain_margin"] != found["margin"]:
        parts.append(f"lowered for quality {found['quality']:.2f}")
    if cut := found.get("truncated_tokens"):
        parts.append(f"{cut:,} tokens cut off")
    return ", ".join(filter(None, parts))


def _refused(errors: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=IMAGE_SHOWN)
    table.add_column(overflow="fold")
    for error in errors:
        at = error.get("index")
        why = ": ".join(one_line(error[key]) for key in ("message", "hint") if error.get(key))
        table.add_row(Text("all" if at is None else candidates[at].name), Text(why))
    return table
