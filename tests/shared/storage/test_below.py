"""Nothing that is swapped between a check and an open leads out of the allowed folders."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import ItemError, NotAllowed, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage import below
from rerankfleet.shared.storage.below import NotAFile, Outside, Roots
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.images.fetch import Fetcher

SECRET = b"secret"
INSIDE = b"inside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder with a/x and a/below/y, beside a folder of somebody else with the same."""
    for top, data in (("allowed", INSIDE), ("outside", SECRET)):
        (tmp_path / top / "a" / "below").mkdir(parents=True)
        (tmp_path / top / "a" / "x").write_bytes(data)
        (tmp_path / top / "a" / "below" / "y").write_bytes(data)
        (tmp_path / top / "a" / ".d.draft").write_bytes(data)
    return tmp_path / "allowed"


@pytest.fixture
def objects(tmp_path: Path, root: Path) -> Objects:
    return Objects(Settings(storage=str(tmp_path / "storage"), allowed_roots=(root,)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def swap(place: Path, target: Path) -> None:
    """A link takes the place of a file or folder."""
    if not place.is_symlink():
        place.rename(place.with_name(f"{place.name}-before"))
        place.symlink_to(target)


def swapped_after_the_check(monkeypatch, place: Path, target: Path) -> None:
    """From now on, whatever is resolved is swapped before it is opened."""
    real = Roots.locate

    def locate(self: Roots, path: Path) -> Any:
        found = real(self, path)
        swap(place, target)
        return found

    monkeypatch.setattr(Roots, "locate", locate)


def reads(objects: Objects, uri: str) -> Any:
    return objects.read(uri)


def writes(objects: Objects, uri: str) -> None:
    objects.write(uri, b"written")


def drafts(objects: Objects, uri: str) -> None:
    objects.new_draft(uri, "n")


def fills(objects: Objects, uri: str) -> None:
    with objects.draft_writer(uri, "d") as out:
        out.write(b"written")


def publishes(objects: Objects, uri: str) -> Any:
    return objects.publish(uri, "d")


def discards(objects: Objects, uri: str) -> None:
    objects.discard(uri, "d")


def lists(objects: Objects, uri: str) -> Any:
    return [objects.read(one) for one in objects.listing(f"{uri.rpartition('/')[0]}/")]


def lists_folders(objects: Objects, uri: str) -> Any:
    return objects.folders(f"{uri.rpartition('/')[0]}/")


def looks(objects: Objects, uri: str) -> Any:
    return objects.is_occupied(uri.rpartition("/")[0])


def tries(objects: Objects, uri: str) -> None:
    objects.try_writing(uri.rpartition("/")[0])


def fetches(objects: Objects, uri: str) -> Any:
    return Fetcher(allowed_roots=(Path(uri.removeprefix("file://")).parents[1],)).fetch(uri)


VERBS = (
    *(reads, Objects.stat, writes, drafts, fills, publishes, discards, lists, lists_folders),
    *(looks, tries, fetches),
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_folder_that_is_swapped_after_the_check_leads_nowhere(
    objects, root, tmp_path, monkeypatch, verb
):
    # given a folder in whose place a link out of the root appears, once it was looked at
    before = contents(tmp_path / "outside")
    swapped_after_the_check(monkeypatch, root / "a", tmp_path / "outside" / "a")
    # when something is done in it
    with pytest.raises((NotAllowed, ItemError)) as caught:
        verb(objects, file_uri(root) + "/a/x")
    # then nothing was touched, and the refusal shows the path as it was given
    assert contents(tmp_path / "outside") == before
    assert "outside" not in str(caught.value)
    assert getattr(caught.value, "code", "") in ("not_allowed", "refused_source")


@pytest.mark.parametrize("verb", [reads, Objects.stat, fetches], ids=lambda verb: verb.__name__)
def test_a_file_that_is_swapped_after_the_check_is_not_read(
    objects, root, tmp_path, monkeypatch, verb
):
    swapped_after_the_check(monkeypatch, root / "a" / "x", tmp_path / "outside" / "a" / "x")
    with pytest.raises((NotAllowed, ItemError)):
        verb(objects, file_uri(root) + "/a/x")


def test_a_file_that_is_swapped_is_replaced_and_not_followed(objects, root, tmp_path, monkeypatch):
    swapped_after_the_check(monkeypatch, root / "a" / "x", tmp_path / "outside" / "a" / "x")
    objects.write(file_uri(root) + "/a/x", b"written")
    assert (root / "a" / "x").read_bytes() == b"written"
    assert (tmp_path / "outside" / "a" / "x").read_bytes() == SECRET


def test_a_draft_that_is_a_link_is_not_written_to(objects, root, tmp_path):
    (root / "a" / ".n.draft").symlink_to(tmp_path / "outside" / "a" / "x")
    uri = f"{file_uri(root)}/a/out"
    draft = objects.new_draft(uri, "n")
    with pytest.raises(UsageError), objects.draft_writer(uri, draft):
        raise AssertionError("it was opened")
    assert (tmp_path / "outside" / "a" / "x").read_bytes() == SECRET


def test_a_folder_that_is_swapped_while_it_is_listed_is_not_entered(objects, root, tmp_path):
    # given a listing that has come to the first file of a folder
    (root / "a" / "0").write_bytes(INSIDE)
    listing = objects.listing(f"{file_uri(root)}/")
    assert next(listing).endswith("/a/0")
    # when a folder that comes later is swapped, then it ends there
    swap(root / "a" / "below", tmp_path / "outside" / "a" / "below")
    with pytest.raises(UsageError, match="below does not exist"):
        list(listing)


def test_a_job_that_is_swapped_while_it_is_removed_takes_nothing_else_along(
    objects, tmp_path, monkeypatch
):
    # given a job of the storage, of which a folder becomes a link after it was looked at
    objects.write(objects.at("jobs", "a", "parts", "1"), b"x")
    victim = tmp_path / "outside" / "a"
    before = contents(victim)
    swapped_after_the_check(monkeypatch, tmp_path / "storage" / "jobs" / "a", victim)
    objects.delete_tree(objects.at("jobs", "a", "parts"))
    objects.delete_tree(objects.at("jobs", "a"))
    assert contents(victim) == before


# ---- a race -------------------------------------------------------------------------------------

ROUNDS = 3000


@pytest.fixture
def swapping(root: Path, tmp_path: Path) -> Iterator[None]:
    """A thread that swaps a folder and a link to the one outside, all the time."""
    over = threading.Event()
    place, kept, link = root / "a", root / "kept", root / "link"
    link.symlink_to(tmp_path / "outside" / "a")

    def swaps() -> None:
        while not over.is_set():
            place.rename(kept)
            link.rename(place)
            place.rename(link)
            kept.rename(place)

    thread = threading.Thread(target=swaps)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("swapping")
def test_no_read_and_no_write_escapes_a_race(objects, root, tmp_path):
    uri, before = f"{file_uri(root)}/a/x", contents(tmp_path / "outside")
    fetcher = Fetcher(allowed_roots=(root,))
    read: list[bytes] = []

    def tried(act: Callable[[], Any]) -> None:
        with suppress(UsageError, ItemError):
            found = act()
            if isinstance(found, bytes):
                read.append(found)

    for _ in range(ROUNDS):
        tried(lambda: objects._half(uri).open(uri).read())
        tried(lambda: fetcher.fetch(uri))
        tried(lambda: fills(objects, uri))
    assert INSIDE in read
    assert SECRET not in read
    assert contents(tmp_path / "outside") == before


# ---- links that are fine ------------------------------------------------------------------------


def test_links_within_the_roots_are_followed(tmp_path, root):
    # given links in a folder to another of its places, and to another root, relative and absolute
    (other := tmp_path / "other").mkdir()
    (other / "z").write_bytes(b"z")
    (root / "current").symlink_to("a/below")
    (root / "there").symlink_to(other)
    (root / "up").symlink_to("a/../a/x")
    (door := tmp_path / "door").symlink_to(root)
    objects = Objects(
        Settings(storage=str(tmp_path / "s"), allowed_roots=(door, other))  # a root that is a link
    )
    fetcher = Fetcher(allowed_roots=(door, other))
    for way, data in {
        f"{root}/current/y": INSIDE,
        f"{root}/there/z": b"z",
        f"{root}/up": INSIDE,
        f"{door}/a/x": INSIDE,
        f"{root}/a/../current/../x": INSIDE,
        f"{root}/there/../allowed/a/x": INSIDE,
    }.items():
        assert objects.read(f"file://{way}") == data
        assert objects.stat(f"file://{way}").size == len(data)
        assert fetcher.fetch(way) == data
    objects.write(f"file://{root}/current/new/out", b"out")
    assert (root / "a" / "below" / "new" / "out").read_bytes() == b"out"
    listed = [one.rpartition("/")[2] for one in objects.listing(f"file://{door}/current/")]
    assert listed == ["out", "y"]


@pytest.mark.parametrize("to", ["{0}/outside/a/x", "../outside/a/x", "{0}/outside/none", "/"])
def test_a_link_that_leads_out_is_refused_whether_or_not_there_is_anything(
    objects, root, tmp_path, to
):
    (root / "link").symlink_to(to.format(tmp_path))
    for uri in (f"file://{root}/link", f"file://{root}/link/x"):
        with pytest.raises(NotAllowed, match="a link in it leads out of the allowed") as caught:
            objects.read(uri)
        assert uri in str(caught.value)
        assert "outside" not in str(caught.value)


def test_a_refusal_shows_the_folder_as_it_was_given(objects, tmp_path):
    (tmp_path / "elsewhere").symlink_to("/etc")
    with pytest.raises(NotAllowed) as caught:
        objects.read(f"file://{tmp_path}/elsewhere/passwd")
    assert f"the folder {tmp_path}/elsewhere is not allowed" in str(caught.value)
    assert "/etc" not in str(caught.value)


def test_a_path_that_is_always_swapped_is_refused(root, tmp_path, monkeypatch):
    """Given a link that leads to the root whenever it is resolved, and out when it is opened."""
    place, turns = root / "turn", iter(range(100))
    place.symlink_to("a")
    real = Roots.locate

    def locate(self: Roots, path: Path) -> Any:
        place.unlink()
        place.symlink_to(("a", "a/below")[next(turns) % 2])
        found = real(self, path)
        swap(root / "a", tmp_path / "outside" / "a")
        return found

    monkeypatch.setattr(Roots, "locate", locate)
    with pytest.raises(Outside):
        Roots([root]).open_file(place / "x")


# ---- what is no file ----------------------------------------------------------------------------


def test_what_would_be_waited_for_is_refused_at_once(objects, root):
    # given a pipe that nobody writes to, and a socket
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    for name in ("pipe", "socket"):
        uri = f"{file_uri(root)}/{name}"
        for verb in (reads, Objects.stat, Objects.exists, writes):
            with pytest.raises(NotAllowed, match="is a pipe, a socket or a device: name a file"):
                verb(objects, uri)
        with pytest.raises(ItemError) as caught:
            fetches(objects, f"{file_uri(root)}/../allowed/{name}")
        assert (caught.value.code, "is not a file" in caught.value.message) == ("not_found", True)
    draft = objects.new_draft(f"{file_uri(root)}/pipe", "p")
    with pytest.raises(NotAllowed):
        objects.publish(f"{file_uri(root)}/pipe", draft)
    assert (root / "pipe").is_fifo()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
def test_a_pipe_that_takes_a_files_place_is_not_waited_for(root, monkeypatch, flags):
    """Given a pipe that appears between the look and the open."""
    real, looked = below.refuse_special, []

    def refuse(mode: int) -> None:
        real(mode)
        if not looked:
            looked.append(mode)
            (root / "a" / "x").unlink()
            os.mkfifo(root / "a" / "x")

    monkeypatch.setattr(below, "refuse_special", refuse)
    with pytest.raises(NotAFile):
        Roots([root]).open_file(root / "a" / "x", flags)


def test_a_device_is_never_opened():
    with pytest.raises(NotAFile):
        Roots([Path("/dev")]).open_file(Path("/dev/null"))


def test_a_regular_file_is_read_as_any_other(root):
    handle = Roots([root]).open_file(root / "a" / "x")
    with os.fdopen(handle, "rb") as stream:
        assert os.get_blocking(handle)
        assert stream.read() == INSIDE


def test_no_handle_is_left_open(objects, root):
    uri, before = f"{file_uri(root)}/a/x", len(os.listdir("/proc/self/fd"))
    for verb in (reads, Objects.stat, writes, lists, lists_folders, looks, tries, Objects.check):
        verb(objects, uri)
    for path in ("none/x", "a/x/y", "a", ".."):
        with suppress(UsageError):
            objects.read(f"{file_uri(root)}/{path}")
    assert len(os.listdir("/proc/self/fd")) == before
