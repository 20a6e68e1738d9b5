"""`rerank query`: a few candidates, ranked now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rerankfleet.producer.cli.common import JsonOption, connected
from rerankfleet.shared.cli import outcome_code
from rerankfleet.shared.command_options import ProfileOption, with_scoring_options
from rerankfleet.shared.content.options import OF_JOBS


@with_scoring_options(without=OF_JOBS)
def query(
    text: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="what is looked for, in words")
    ] = None,
    doc: Annotated[list[str] | None, typer.Option(help="a candidate of text; repeatable")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="a candidate image, a path or URI; repeatable")
    ] = None,
    query_image: Annotated[
        list[str] | None, typer.Option(help="an image that belongs to the query; repeatable")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            help="candidates, one a line: text or JSON content; CSV or Parquet; - for stdin"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="a model that the fleet serves")] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Rank a few candidates for one query now. Their order: --doc, --image, --file.

    Example: rerank query "a red chair" --image a.jpg --image s3://shop/b.jpg --doc "a red stool"

    Example: ls | rerank query "the page about money" --file -
    """
    from rerankfleet.producer.terminal import tables
    from rerankfleet.producer.terminal.query import RequestBuilder, ranking

    client = connected()
    request = RequestBuilder(client.settings.inline_bytes_max, client.objects)
    content = request.query(text, query_image or [])
    for words in doc or []:
        request.add_text(words)
    for uri in image or []:
        request.add_image(uri)
    for path in file or []:
        request.add_file(path)
    request.require_candidates()
    line = client.rerank(
        content,
        [candidate.document for candidate in request.candidates],
        model=model,
        profile=profile,
        **options,
    )
    if as_json:
        tables.as_json(line)
    else:
        tables.console().print(ranking(line, request.candidates, request.files))
    raise typer.Exit(outcome_code(scored=len(line["results"]), unscored=len(line["errors"])))
