"""The resolution study: complete rows, a table that follows from them, handling of bad input."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image, ImageDraw
from scipy.stats import kendalltau
from typer.testing import CliRunner

from rerankfleet.shared.addresses import local_path
from rerankfleet.shared.errors import (
    OutOfDeviceMemory,
    OutputExists,
    RerankError,
    UnknownModel,
    UsageError,
)
from rerankfleet.studies.cli import commands

pytest.importorskip("matplotlib")
parquet = pytest.importorskip("pyarrow.parquet")

from rerankfleet import prepare_image  # noqa: E402
from rerankfleet.studies.resolution import plan, run, table  # noqa: E402
from rerankfleet.workers.batching.packing import Limit, Pack  # noqa: E402
from rerankfleet.workers.engine import load_engine  # noqa: E402
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest, Side  # noqa: E402
from rerankfleet.workers.prompting.tokens import Tokens, Visual  # noqa: E402
from tests.support.vl_model import build_vl_model  # noqa: E402

ROOT = Path(__file__).parents[2]
QUERIES = ["a red circle", "a blue circle", "nothing at all"]
SIZES = ["64x64", "128x96", "192x128"]
OPTIONS = ["--sizes", ",".join(SIZES), "--reference", "128x96"]
TOLERANCE = 1e-4
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory):
    return build_vl_model(tmp_path_factory.mktemp("vl"))


def rerank(*arguments: object):
    """The command `rerank study`, in this process."""
    app = typer.Typer()
    app.callback()(lambda: None)
    commands(app)
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """The message with which a command is refused."""
    error = rerank(*arguments).exception
    assert isinstance(error, RerankError), error
    assert "\n" not in str(error)
    return str(error)


def draw(path: Path, seed: int, size: tuple[int, int] = (256, 192)) -> None:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    wide, high = size
    for colour in ("red", "blue", "green"):
        x, y, radius = rng.integers(0, wide), rng.integers(0, high), rng.integers(9, 60)
        box = [int(side) for side in (x - radius, y - radius, x + radius, y + radius)]
        ImageDraw.Draw(image).ellipse(box, colour)
    image.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five images, one of them small; a damaged one; a file that is not an image; queries."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number in range(4):
        draw(folder / f"{number}.png", number)
    draw(folder / "more" / "small.jpg", 9, (100, 75))
    (folder / "damaged.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "queries.txt").write_text("\n".join(["", *QUERIES, ""]))
    rows = ["image,category", "0.png,even", "1.png,odd", "2.png,even", "3.png,odd"]
    (folder / "categories.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def study(folder, vl_folder, tmp_path_factory):
    """A study of three sizes in two interpolations, three times."""
    out = tmp_path_factory.mktemp("study") / "out"
    result = rerank(
        "resolution", folder, "--queries", folder / "queries.txt", "--model", vl_folder,
        "--categories", folder / "categories.csv", "--interpolation", "bicubic,nearest",
        "-o", out, *OPTIONS,
    )  # fmt: skip
    assert result.exit_code == 3, result.output  # one image was left out
    return out


@pytest.fixture(scope="module")
def rows(study) -> list[dict]:
    return parquet.read_table(study / "scores.parquet").to_pylist()


@pytest.fixture(scope="module")
def lines(study) -> list[dict]:
    with (study / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mean_margins(rows, size, interpolation="bicubic") -> dict[tuple[str, str], float]:
    """(image, query) -> mean over the repeats."""
    by_pair: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if (row["size"], row["interpolation"]) == (size, interpolation):
            by_pair.setdefault((row["image"], row["query"]), []).append(row["margin"])
    return {pair: float(np.mean(margins)) for pair, margins in by_pair.items()}


def line_of(lines, category, size, interpolation="bicubic") -> dict:
    (line,) = [
        line
        for line in lines
        if (line["category"], line["size"], line["interpolation"])
        == (category, size, interpolation)
    ]
    return line


def test_every_image_meets_every_query_in_every_cell_and_repeat(rows):
    keys = ("image", "query", "size", "interpolation", "repeat")
    keys_of_rows = [tuple(row[key] for key in keys) for row in rows]
    images = ["0.png", "1.png", "2.png", "3.png", "more/small.jpg"]
    want = {
        (image, query, size, interpolation, repeat)
        for image in images
        for query in QUERIES
        for size in SIZES
        for interpolation in ("bicubic", "nearest")
        for repeat in range(3)
    }
    assert len(keys_of_rows) == len(want)
    assert set(keys_of_rows) == want


def test_a_row_says_what_the_model_saw(rows):
    for row in rows:
        assert row["score"] == pytest.approx(1 / (1 + math.exp(-row["margin"])))
        assert row["visual_tokens"] * 32 * 32 == row["used_width"] * row["used_height"]
        assert row["seconds"] > 0
    used = {(r["image"], r["size"]): (r["used_width"], r["used_height"]) for r in rows}
    assert used["0.png", "128x96"] == (128, 96)
    assert used["more/small.jpg", "192x128"] == used["more/small.jpg", "128x96"] == (128, 96)
    assert {(r["original_width"], r["original_height"]) for r in rows} == {(256, 192), (100, 75)}
    categories = {row["image"]: row["category"] for row in rows}
    assert (categories["0.png"], categories["more/small.jpg"]) == ("even", "")


def test_margins_are_those_of_the_images_scored_alone(rows, folder, vl_folder):
    # given the same model
    engine = load_engine(str(vl_folder), device="cpu")
    cell = plan.Cell((192, 128), "nearest")
    image = prepare_image(folder / "2.png", cell.options)
    side = Side(images=(Visual("2", (image.pixels,)),))
    # when a pair is scored by itself
    (prompts,) = engine.prompter.encode_all(
        [PromptRequest(Side(QUERIES[0]), [side])], max_length=8192
    )
    (margin,) = engine.score(Pack.of(prompts)[0])
    # then the study has the same margin
    studied = mean_margins(rows, "192x128", "nearest")["2.png", QUERIES[0]]
    assert studied == pytest.approx(margin, abs=TOLERANCE)


def test_repeats_agree_to_the_noise_of_fp32(rows, lines):
    by_pair: dict[tuple, list[float]] = {}
    for row in rows:
        key = (row["image"], row["query"], row["size"], row["interpolation"])
        by_pair.setdefault(key, []).append(row["margin"])
    spread = [max(margins) - min(margins) for margins in by_pair.values()]
    assert max(spread) < TOLERANCE
    all_lines = [float(line["noise_max"]) for line in lines if line["category"] == "all"]
    assert max(all_lines) == pytest.approx(max(spread), abs=1e-12)


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.parametrize("size", SIZES)
def test_the_table_is_what_the_raw_margins_say(rows, lines, size, interpolation):
    # given handmade margins of a cell and of the reference
    mean = mean_margins(rows, size, interpolation)
    reference = mean_margins(rows, "128x96")
    images = sorted({image for image, _ in mean})
    taus, flips = [], []
    for query in QUERIES:
        ours, theirs = ([m[image, query] for image in images] for m in (mean, reference))
        taus.append(kendalltau(ours, theirs).statistic)
        flips.append(int(np.argmax(ours)) != int(np.argmax(theirs)))
    chosen = [r for r in rows if (r["size"], r["interpolation"]) == (size, interpolation)]
    # then the line of the table has the same figures
    line = line_of(lines, "all", size, interpolation)
    assert (line["images"], line["queries"]) == ("5", "3")
    assert float(line["margin"]) == pytest.approx(np.mean(list(mean.values())))
    assert float(line["score"]) == pytest.approx(np.mean([r["score"] for r in chosen]))
    assert float(line["tau_b"]) == pytest.approx(np.mean(taus))
    assert float(line["top1_flips"]) == pytest.approx(np.mean(flips))
    assert float(line["images_per_s"]) == pytest.approx(15 / sum(r["seconds"] for r in chosen))
    assert float(line["margin_low"]) <= float(line["margin"]) <= float(line["margin_high"])
    change = float(line["margin"]) - float(line_of(lines, "all", "128x96")["margin"])
    assert float(line["change"]) == pytest.approx(change, abs=1e-12)


def test_categories_have_lines_of_their_own_images(rows, lines):
    assert {line["category"] for line in lines} == {"all", "even", "odd", "other"}
    mean = mean_margins(rows, "64x64")
    even = np.mean([margin for (image, _), margin in mean.items() if image in ("0.png", "2.png")])
    line = line_of(lines, "even", "64x64")
    assert line["images"] == "2"
    assert float(line["margin"]) == pytest.approx(even)
    # a single image has neither an interval nor a rank order
    other = line_of(lines, "other", "64x64")
    assert (other["margin_low"], other["tau_b"], other["tau_queries"]) == ("", "", "0")


def test_small_images_are_counted_where_they_are_not_enlarged(lines, study):
    counts = [
        (line_of(lines, "all", size)["smaller"], line_of(lines, "all", size)["unchanged"])
        for size in SIZES
    ]
    assert counts == [("0", "0"), ("1", "0"), ("1", "1")]
    assert "1 of 5 at 192x128 (1)" in (study / "report.md").read_text()


def test_the_report_links_what_is_there_and_says_what_to_beware_of(study):
    report = (study / "report.md").read_text()
    for name in ("scores.parquet", "table.csv", "plot.png", "run.json"):
        assert f"({name})" in report
        assert (study / name).stat().st_size
    assert (study / "plot.png").read_bytes().startswith(PNG)
    with Image.open(study / "plot.png") as plot:
        assert plot.width > plot.height > 300
    assert "A higher mean score does not mean better" in report
    assert "pixel cap" not in report  # no size is above it
    facts = json.loads((study / "run.json").read_text())
    assert (facts["images"], facts["queries"], facts["provenance"]["dtype"]) == (5, 3, "fp32")


def test_a_damaged_image_is_reported_and_left_out(study):
    (skipped,) = json.loads((study / "run.json").read_text())["skipped"]
    assert (skipped["image"], skipped["code"]) == ("damaged.png", "invalid_image")
    report = (study / "report.md").read_text()
    assert "Left out: 1 images" in report
    assert "`damaged.png`: the image is truncated or damaged" in report


def test_sizes_above_the_models_cap_are_other_images_and_the_report_says_so(folder):
    from rerankfleet.studies.resolution.report import RunFacts, write_report
    from rerankfleet.workers.images.resize import plan_size

    # given sizes that the model's own cap would make one
    sizes = [plan.Cell(size, "bicubic").options for size in ((1600, 1200), (2048, 1536))]
    used = [plan_size(2048, 1536, options).size for options in sizes]
    assert used[0] < used[1] == (2048, 1536)
    # when a report of them is written
    facts = RunFacts.model_validate(
        {
            "provenance": {
                "model": "m", "template": "t", "dtype": "fp32", "attention": "a", "device": "cpu",
                "version": "1", "revision": "r",
            },
            "device_name": "cpu", "plan": plan.Plan(), "instruction": "", "pack_tokens": 1,
            "images": 0, "queries": 0, "skipped": [], "versions": {}, "started": "", "seconds": 0,
        }
    )  # fmt: skip
    write_report(facts, [], folder)
    # then it mentions that the cap was lifted
    report = (folder / "report.md").read_text()
    assert "pixel cap of 1,843,200 is lifted here" in report
    assert "the sizes above it (1600x1200, 2048x1536) would be the same image" in report


def test_an_image_without_a_finite_margin_is_left_out(study):
    scores = table.read_scores(study / "scores.parquet")
    scores.margins[0, 1, 2, 0] = np.nan
    kept, lost = scores.finite()
    assert lost == [scores.images[2]]
    assert (len(kept.images), kept.margins.shape[2], len(kept.used[0])) == (4, 4, 4)


def test_rows_that_are_missing_are_noticed(study, tmp_path):
    rows = parquet.read_table(study / "scores.parquet")
    parquet.write_table(rows.slice(1), tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match="does not hold 6 x 3 x 5 x 3 rows"):
        table.read_scores(tmp_path / "scores.parquet")


def test_tau_is_undefined_where_all_margins_are_equal():
    margins = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    assert table.tau_b(margins, margins)[0] == 1
    assert np.isnan(table.tau_b(margins, margins)[1])
    assert np.isnan(table.tau_b(margins[:1], margins[:1])).all()


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """Given many samples of images, with one query, around a known mean."""
    rng = np.random.default_rng(5)
    covered = [
        low <= 2.0 <= high
        for low, high in (table.interval(rng.normal(2.0, 1.0, (40, 1))) for _ in range(200))
    ]
    assert 0.88 <= np.mean(covered) <= 0.99


class _Small:
    """An engine that takes at most two pairs."""

    def __init__(self) -> None:
        self.freed = 0

    def score(self, pack) -> list[float]:
        if pack.pairs > 2:
            raise OutOfDeviceMemory("too much")
        return [float(len(document)) for document in pack.documents()]

    def free(self) -> None:
        self.freed += 1


def test_a_pack_that_does_not_fit_is_scored_in_parts():
    engine = _Small()
    kept, query = Tokens.of([1]), Tokens.of([2])
    prompts = [Prompt(kept, query, Tokens.of(range(length))) for length in (5, 9, 7, 8, 6)]
    scored = run.Run(engine, Limit(100), plan.Plan(), ["a query"])._margins(prompts)
    assert scored.tolist() == [5, 9, 7, 8, 6]
    assert engine.freed == 2


# ---- input --------------------------------------------------------------------------------------


def test_a_listing_names_images_beside_it_with_their_categories(folder, vl_folder, tmp_path):
    # given a listing with a column of categories, two good images and one that is missing
    listing = folder / "listing.csv"
    listing.write_text("category,image\nnear,0.png\nfar,more/small.jpg\nnear,gone.png\n")
    # when it is studied in two sizes
    result = rerank(
        "resolution", listing, "--queries", folder / "queries.txt", "--model", vl_folder,
        "--sizes", "64×64,96x64", "--reference", "64x64", "--repeats", 1, "-o", tmp_path,
    )  # fmt: skip
    # then the good ones are scored, the other is named, and one repeat has no noise floor
    assert result.exit_code == 3
    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["category"] for line in lines] == ["all", "all", "far", "far", "near", "near"]
    assert {line["noise"] for line in lines} == {""}
    report = (tmp_path / "report.md").read_text()
    assert "gone.png" in report
    assert "the noise floor is not known" in report


def test_bad_options_give_one_clear_sentence(folder, vl_folder, tmp_path):
    arguments = [
        "resolution", folder, "--queries", folder / "queries.txt", "--model", vl_folder,
        "-o", tmp_path / "out",
    ]  # fmt: skip
    assert "'big' is not a size" in refusal(*arguments, "--sizes", "big")
    assert "the reference 1024x768 is not among the sizes" in refusal(
        *arguments, "--sizes", "64x64"
    )
    assert "the size 64x64 stands twice" in refusal(*arguments, "--sizes", "64x64,64x64")
    assert "target 1 is out of range" in refusal(*arguments, "--sizes", "1x1", "--reference", "1x1")
    assert "interpolation 'cubic' is not known" in refusal(*arguments, "--interpolation", "cubic")
    assert "0 repeats are out of range" in refusal(*arguments, "--repeats", 0)
    assert "the study needs IMAGES, --queries" in refusal("resolution", folder)
    assert "text only: use a Qwen3-VL reranker" in refusal(*arguments, "--model", "pocket-text")
    assert isinstance(rerank(*arguments, "--model", "nowhere").exception, UnknownModel)
    assert not (tmp_path / "out" / "scores.parquet").exists()


def test_bad_files_give_one_clear_sentence(folder, tmp_path):
    from rerankfleet.studies.resolution.inputs import read_images, read_queries

    empty, twice, other = tmp_path / "empty.txt", tmp_path / "twice.txt", tmp_path / "other.csv"
    empty.write_text("\n")
    twice.write_text("a.png\na.png\n")
    other.write_text("image,category\nunknown.png,x\n")
    with pytest.raises(UsageError, match="has no queries"):
        read_queries(empty)
    with pytest.raises(UsageError, match=r"'a\.png' stands twice"):
        read_queries(twice)
    with pytest.raises(UsageError, match="does not exist"):
        read_queries(tmp_path / "gone.txt")
    with pytest.raises(UsageError, match="names no image"):
        read_images(empty)
    with pytest.raises(UsageError, match=r"'a\.png' stands twice"):
        read_images(twice)
    with pytest.raises(UsageError, match=r"not studied, such as unknown\.png"):
        read_images(folder, other)
    other.write_text("photo\n0.png\n")
    with pytest.raises(UsageError, match="has no column 'image'"):
        read_images(other)
    other.write_text('image\n"0.png\n1.png\n')
    with pytest.raises(UsageError, match=r"line 2: the quotation mark of line 2 is never closed"):
        read_images(other)


def test_tables_of_a_study_are_read_as_those_of_a_job(tmp_path):
    from rerankfleet.studies.resolution.inputs import read_images, read_queries

    images, queries = tmp_path / "images.csv", tmp_path / "queries.csv"
    images.write_bytes("Category; IMAGE \nred;a.png\n".encode("utf-16").replace(b";", b","))
    queries.write_text("id,Text\n1,red chair\n")

    assert [(image.uri, image.category) for image in read_images(images)] == [("a.png", "red")]
    assert read_queries(queries) == ["red chair"]


def test_signed_addresses_keep_their_secret(tmp_path):
    from rerankfleet.studies.resolution.inputs import read_images

    listing = tmp_path / "listing.txt"
    listing.write_text("https://shop.example/a.png?X-Amz-Signature=secret\n")
    (image,) = read_images(listing)
    assert image.name == "https://shop.example/a.png"


def test_what_is_not_signed_tells_images_apart(tmp_path):
    from rerankfleet.studies.resolution.inputs import read_images

    listing = tmp_path / "listing.txt"
    addresses = [
        *("https://h/img?id=0", "https://h/img?id=1", "https://h/img?id=1&sig=secret1"),
        *(
            "https://h/img?id=1&sig=secret2",
            "https://u:secret@h/img?id=1",
            "https://h/img?id=1 (2)",
        ),
        *("x" * 250 + "1", "x" * 250 + "2", "s3://b/a?b", "s3://b/a#b", "\u2028\x0c.png"),
    ]
    listing.write_text("\n".join(addresses))

    images = read_images(listing)

    assert [image.uri for image in images] == addresses
    assert len({image.name for image in images}) == len(addresses)
    assert "secret" not in "".join(image.name for image in images)
    listing.write_text("https://h/img?sig=secret\n" * 2)
    with pytest.raises(UsageError, match=r"'https://h/img' stands twice"):
        read_images(listing)


ODD_NAMES = ["a#1.png", "a?b.png", "a%41.png", "a\tb.png", "a\nb.png", "file:a.png", "\udcff.png"]


@pytest.mark.parametrize("as_listing", [False, True])
def test_images_of_any_name_are_studied(folder, vl_folder, tmp_path, as_listing):
    images = tmp_path / "images"
    (images / ".hidden").mkdir(parents=True)
    for name in [*ODD_NAMES, "._a.png", ".hidden/b.png", "notes.psd"]:
        shutil.copy(folder / "0.png", images / name)
    source, names = images, ODD_NAMES
    if as_listing:
        source = tmp_path / "listing.txt"
        names = [name for name in ODD_NAMES if "\n" not in name]
        whole = [os.fsencode(images / name) for name in names]
        source.write_bytes(b"\n".join([*whole, b""]))

    result = rerank(
        "resolution", source, "--queries", folder / "queries.txt", "--model", vl_folder,
        "--sizes", "64x64,96x64", "--reference", "64x64", "--repeats", 1, "-o", tmp_path / "out",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    rows = parquet.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    start = f"{images}/" if as_listing else ""
    shown = {row["image"] for row in rows}
    assert {str(local_path(n)) if n.startswith("file:") else n for n in shown} == {
        f"{start}{name}" for name in names
    }


def test_without_any_good_image_there_is_no_study(tmp_path, vl_folder):
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "queries.txt").write_text("a gate")
    message = refusal(
        "resolution", tmp_path, "--queries", tmp_path / "queries.txt", "--model", vl_folder,
        "-o", tmp_path / "out", *OPTIONS,
    )  # fmt: skip
    assert (
        message
        == "none of the 1 images can be used; bad.png: the image has no bytes: check the file"
    )


def test_a_study_is_not_replaced_without_force(study, folder, vl_folder, tmp_path):
    out = shutil.copytree(study, tmp_path / "out")
    arguments = [
        "resolution", folder / "listing.txt", "--queries", folder / "queries.txt",
        "--model", vl_folder, "--repeats", 1, "-o", out, *OPTIONS,
    ]  # fmt: skip
    (folder / "listing.txt").write_text("0.png\n1.png\n")
    assert isinstance(rerank(*arguments).exception, OutputExists)
    assert rerank(*arguments, "--force").exit_code == 0
    assert json.loads((out / "run.json").read_text())["images"] == 2


def test_the_example_is_drawn_once_and_can_be_read(tmp_path):
    from rerankfleet.studies.resolution.inputs import read_images, read_queries

    result = rerank("resolution", "--example", tmp_path / "example")
    assert result.exit_code == 0, result.output
    images = read_images(tmp_path / "example" / "images.csv")
    assert [image.category for image in images] == ["shapes"] * 4 + ["words"] * 4 + ["detail"] * 4
    assert len(read_queries(tmp_path / "example" / "queries.txt")) == 6
    for image in images:
        with Image.open(tmp_path / "example" / image.uri) as drawn:
            assert drawn.size == (2048, 1536)
    assert "exists already" in refusal("resolution", "--example", tmp_path / "example")


def test_the_command_loads_nothing_heavy_before_it_is_needed():
    code = (
        "import sys, typer\nfrom rerankfleet.studies.cli import commands\ncommands(typer.Typer())\n"
        "print(*{'torch', 'transformers', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert process.stdout.strip() == ""
