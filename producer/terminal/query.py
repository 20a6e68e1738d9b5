"""`rerank query`: a query and a few candidates, ranked at once and shown as a table.

Images in local files are sent in the request, since workers may be on other hosts; the rest is
`Client.rerank`.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rerankfleet.producer.contents import read_contents
from rerankfleet.producer.terminal.tables import bar
from rerankfleet.shared.addresses import printable, scheme_of, without_secrets
from rerankfleet.shared.content.data_uris import carries_file, is_data_uri
from rerankfleet.shared.content.outcomes import REJECTIONS
from rerankfleet.shared.content.uris import DATA_URI_BYTES, data_uri
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.shown import one_line
from rerankfleet.shared.storage.objects import Objects

SUB_SCORES = {"visual_match": "VISUAL", "text_alignment": "WORDS", "consistency": "AGREE"}
NAME_SHOWN = 200
"""Characters of a text that are passed to the table, which truncates them to its width."""

IMAGE_SHOWN = 40
"""Characters of an image's name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document as it is sent, and the name under which it is shown."""

    document: Mapping[str, Any]
    name: str
    place: str = ""
    """The file and line that it is from: "line 3 of candidates.txt"."""

    @property
    def placed(self) -> str:
        """Its name after its place, where it has one."""
        return one_line(f"{self.place}: {self.name}" if self.place else self.name)


@dataclass(slots=True)
class RequestBuilder:
    """Collects a query and its candidates. Images of local files may have `bytes_max` in all, in
    base64."""

    bytes_max: int
    objects: Objects | None = None
    """Read the files that are named by a URI."""
    candidates: list[Candidate] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """What each file held: "12 lines of candidates.txt, 2 of them empty"."""
    _bytes: int = 0

    def query(self, text: str | None, images: Sequence[str]) -> dict[str, Any]:
        """The query's content. Raises UsageError when it is empty."""
        content: dict[str, Any] = {"text": text} if text and text.strip() else {}
        if images:
            content["image"] = [self._image(image) for image in images]
        if not content:
            raise UsageError(
                "the query is empty", hint='write what to search for: rerank query "a red chair" …'
            )
        return content

    def add_text(self, text: str, place: str = "") -> None:
        """Add a candidate of text."""
        self.candidates.append(Candidate({"text": text}, one_line(text[:NAME_SHOWN]), place))

    def add_image(self, image: str) -> None:
        """Add a candidate of one image, whose id is its name. Raises UsageError."""
        document = {"id": _whole_name(image), "image": self._image(image)}
        self.candidates.append(Candidate(document, _image_name(image)))

    def add_file(self, path: str) -> None:
        """Add a candidate per line, text or a JSON content, or per row of a table; `-` is stdin.
        Lines are counted as the file has them; empty ones are no candidates. Raises UsageError."""
        name, empty, number = "standard input" if path == "-" else path, 0, 0
        large = "`rerank submit` takes files of any size"
        for number, content in read_contents(path, self.objects, self.bytes_max, when_large=large):
            place = f"line {number} of {Path(name).name}"  # the number first: names are cut short
            if content is None:
                empty += 1
            elif isinstance(content, str):
                self.add_text(content, place)
            else:
                self.candidates.append(Candidate(content, _content_name(content), place))
        plural = "" if number == 1 else "s"
        said = f", {empty:,} of them empty" if empty else ""
        self.files.append(f"{number:,} line{plural} of {name}{said}")

    def require_candidates(self) -> None:
        """Raise UsageError where there is nothing to rank."""
        if self.candidates:
            return
        where = f" ({'; '.join(self.files)})" if self.files else ""
        raise UsageError(
            f"there are no candidates{where}", hint="give some with --doc, --image or --file"
        )

    def _image(self, image: str) -> str:
        """A URI as it is, a path as a data: URI."""
        if carries_file(image) or (scheme_of(image) and not os.path.lexists(image)):
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
        kind = kind.removeprefix("image/") if kind.startswith("image/") else "unknown"
        return data_uri(kind, data)  # workers detect its kind by the bytes

    def _refuse_large(self, image: str, size: int) -> None:
        """Raise UsageError if an image, or all of them together, are too large for a request."""
        one_max = min(DATA_URI_BYTES, self.bytes_max)
        if size > one_max:
            problem = (
                f"the image {image} has {_mib(size)}, at most {_mib(one_max)} fit into a query"
            )
        elif self._bytes > self.bytes_max:
            problem = f"a query takes {_mib(self.bytes_max)} of images at most, too few for {image}"
        else:
            return
        raise UsageError(
            problem,
            hint="make them smaller, name them as s3:// or https:// where workers may fetch them, "
            "or rank many with `rerank submit --catalog`",
        )


def _mib(size: int) -> str:
    """A size in base64 as that of the file."""
    count = size * 3 // 4
    return f"{count / 2**20:.1f} MiB"


def _whole_name(image: str) -> str:
    """A path as it is; an address without what is secret in it; the kind of a data: URI."""
    if carries_file(image):
        return image.partition(";")[0][:IMAGE_SHOWN] if is_data_uri(image) else "base64"
    return printable(without_secrets(image))


def _image_name(image: str) -> str:
    """The end of an image's name, where names differ."""
    name = one_line(_whole_name(image))
    return name if len(name) <= IMAGE_SHOWN else f"…{name[1 - IMAGE_SHOWN :]}"


def _content_name(content: Mapping[str, Any]) -> str:
    """The name under which a content is shown, whatever it holds."""
    images = content.get("image") or []
    names = [_image_name(str(i)) for i in (images if isinstance(images, list) else [images])]
    words = one_line(str(content.get("text") or "")[:NAME_SHOWN])
    known = "" if content.get("id") is None else one_line(f"[{content['id']}]")
    return "  ".join(filter(None, [known, *names, words])) or "–"


# ---- the table ----------------------------------------------------------------------------------


def ranking(
    line: Mapping[str, Any], candidates: Sequence[Candidate], files: Sequence[str] = ()
) -> RenderableType:
    """A line of output for people: scored candidates by rank, then the others with the reason."""
    results, errors = line["results"], line["errors"]
    parts: list[RenderableType] = [_ranked(results, candidates)] if results else []
    rejected = [error for error in errors if error["code"] in REJECTIONS]
    failed = [error for error in errors if error["code"] not in REJECTIONS]
    for title, style, group in (("Rejected", "yellow", rejected), ("Failed", "red", failed)):
        if group:
            parts += [Text(), Text(f"{title}: {len(group)}", f"bold {style}")]
            parts.append(_refused(group, candidates))
    hidden = len(candidates) - len(results) - len(errors)
    more = f"{hidden} more with a lower score · " if hidden > 0 else ""
    by = line["provenance"] or {}
    last = f"{more}{by.get('model', 'no model')} · {by.get('dtype', '')} · {by.get('device', '')}"
    parts += [Text(), Text(one_line(last.rstrip(" ·")), "dim")]
    if files:
        parts.append(Text(one_line(f"{'; '.join(files)}: {_counts(line, candidates)}"), "dim"))
    return Group(*parts)


def _counts(line: Mapping[str, Any], candidates: Sequence[Candidate]) -> str:
    """How many candidates there were, and how many have no score."""
    unscored = len(line["errors"])
    plural = "" if len(candidates) == 1 else "s"
    without = f", {unscored:,} without a score" if unscored else ""
    return f"{len(candidates):,} candidate{plural}{without}"


def _ranked(results: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]) -> Table:
    subs = {key: name for key, name in SUB_SCORES.items() if "explain" in results[0]}
    notes = [_notes(result) for result in results]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    table.add_column("", justify="right")
    table.add_column("SCORE", no_wrap=True)
    for name in ("MARGIN", *subs.values()):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CANDIDATE", overflow="ellipsis", no_wrap=True, ratio=1)
    if any(notes):
        table.add_column("", style="dim", no_wrap=True)
    for rank, (result, note) in enumerate(zip(results, notes, strict=True), 1):
        score = result["relevance_score"]
        table.add_row(
            str(rank),
            Text(f"{bar(score, 8)} ", "cyan").append(f"{score:.3f}", "bold"),
            f"{result['margin']:+.2f}",
            *(_sub_score(result["explain"].get(key)) for key in subs),
            Text(candidates[result["index"]].name),
            *([Text(note)] if any(notes) else []),
        )
    return table


def _sub_score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _notes(result: Mapping[str, Any]) -> str:
    """Remarks about a candidate: the sizes of its images, a lower margin, truncation."""
    sizes = [" × ".join(map(str, image["original"])) for image in result.get("images") or []]
    parts = [", ".join(sizes[:3]) + " px" if sizes else ""]
    if result.get("plain_margin") is not None and result["plain_margin"] != result["margin"]:
        parts.append(f"lowered for quality {result['quality']:.2f}")
    if cut := result.get("truncated_tokens"):
        parts.append(f"{cut:,} tokens cut off")
    return ", ".join(filter(None, parts))


def _refused(errors: Sequence[Mapping[str, Any]], candidates: Sequence[Candidate]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=IMAGE_SHOWN)
    table.add_column(overflow="fold")
    for error in errors:
        at = error.get("index")
        why = ": ".join(one_line(error[key]) for key in ("message", "hint") if error.get(key))
        table.add_row(Text("all" if at is None else candidates[at].placed), Text(why))
    return table
