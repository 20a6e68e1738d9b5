"""Slices are cut into runs that are bounded in pairs and images."""

from __future__ import annotations

from rerankfleet.workers.pipeline import IMAGES_AHEAD, PAIRS_AHEAD, in_runs
from tests.support.slices import a_slice, image


def sizes(runs) -> list[list[int]]:
    """How many documents each slice of each run has."""
    return [[len(piece.documents) for piece in run] for run in runs]


def test_a_run_has_few_images_and_the_first_ones_have_fewest():
    slices = [a_slice(image(f"{n}.png"), image(f"{n}-b.png"), line=n) for n in range(20)]

    runs = list(in_runs(slices))

    assert sizes(runs) == [[2], [2] * 2, [2] * 4, [2] * 8, [2] * 5]


def test_an_image_that_many_queries_meet_is_one_image():
    slices = [a_slice(image("same.png"), query=f"query {n}") for n in range(PAIRS_AHEAD)]

    assert len(list(in_runs(slices))) == 1


def test_images_of_queries_count_too():
    slices = [a_slice("text", query=image(f"{n}.png")) for n in range(2 * IMAGES_AHEAD)]

    first = [[1] * 2, [1] * 4, [1] * 8]
    assert sizes(in_runs(slices)) == [*first, [1] * IMAGES_AHEAD, [1] * 2]


def test_a_request_of_many_images_is_cut():
    many = a_slice("text", *(image(f"{n}.png") for n in range(38)), "text")

    runs = list(in_runs([many]))

    assert sizes(runs) == [[3], [4], [8], [16], [9]]
    assert [i for run in runs for piece in run for i in piece.indices] == list(range(40))


def test_a_document_of_many_images_is_not_cut():
    album = image(*(f"{n}.png" for n in range(20)))

    assert sizes(in_runs([a_slice(album, album, "text")])) == [[1], [2]]
