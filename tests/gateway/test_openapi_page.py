"""The documentation as a page."""

from __future__ import annotations


def test_the_documentation_needs_no_other_host_and_no_script(http):
    page = http.get("/docs").text
    assert "POST /v1/rerank" in page
    assert "://" not in page.replace("https://, s3://", "").replace("s3://", "").replace(
        "file://", ""
    )
    assert "<script" not in page
    assert "style=" not in page
