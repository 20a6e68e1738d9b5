"""Nothing lost, nothing twice: a job lived through with everything that can go wrong, at random.

Given messages that are lost, doubled and reordered, workers that die, stall or are drained, feeders
and finishers that are killed before or after their decisive step, pauses, cancellations, retries:
when it is calm again, every pair has exactly one outcome, and every score is the undisturbed one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.rows import parse_rows
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.formats.shard_files import dump_queries, load_slices, queries_uri
from rerankfleet.shared.job_spec import Catalog, InputRef, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease
from rerankfleet.workers.monitor import Monitor
from rerankfleet.workers.pipeline import poisoned, summarize
from tests.support.fleet import MODEL, Worker, margin_of, write_part
from tests.support.outputs import check, manifest, output, pairs_of
from tests.support.records import open_shards

JOB = "j"


class Killed(BaseException):
    """A process dies here."""


class World:
    """One job, its coordinator, some workers, and a source of misfortune."""

    def __init__(self, control: Control, draw: random.Random) -> None:
        self.control, self.store, self.draw = control, control.store, draw
        self.workers = [Worker(control, name=f"w{i}", fails="fails") for i in range(3)]
        self.held: list[tuple[Worker, Lease]] = []
        self.stalled: list[tuple[Worker, Lease]] = []
        self.monitor = Monitor(self.store, control.objects, control.hints, control.settings)
        self.waiting: list[tuple[str, ...]] = []

    # ---- what happens ---------------------------------------------------------------------------

    def deliver(self) -> None:
        """Some message arrives; the next may overtake it, or it arrives twice."""
        if self.waiting:
            at = self.draw.randrange(len(self.waiting))
            hint = self.waiting[at]
            if self.draw.random() > 0.1:
                del self.waiting[at]
            self._carry_out(*hint)

    def _carry_out(self, kind: str, *args: str) -> None:
        if kind == "feed":
            with self._mortal(self.store.shards, "open"):
                feed(args[0], self.control)
        elif kind == "finish":
            with self._mortal(self.store.jobs, "finish"):
                finish(args[0], self.control)
        else:
            self._claim(self.draw.choice(self.workers), *args)

    @contextmanager
    def _mortal(self, room: object, step: str):
        """The process may die right before or right after its decisive step."""
        real: Callable = getattr(room, step)
        fate = self.draw.random()

        def dies(*args, **options):
            if fate < 0.1:
                raise Killed
            answer = real(*args, **options)
            if fate < 0.2:
                raise Killed
            return answer

        setattr(room, step, dies)
        try:
            yield
        except Killed:
            pass
        finally:
            setattr(room, step, real)

    def _claim(self, worker: Worker, job_id: str, shard: str) -> None:
        alone = all(holder is not worker for holder, _ in self.held)
        answer = worker.claim(job_id, shard)
        if answer == "suspect" and alone:
            answer = worker.claim(job_id, shard, alone=True)
        if answer == "split":
            for half in self.store.shards.split(job_id, MODEL, shard):
                self.control.hints.sent.append(("shard", job_id, half))
        elif isinstance(answer, Lease):
            self.held.append((worker, answer))

    def commit(self) -> None:
        """A worker brings its results; a stalled one too, of which nobody expected it."""
        holders = self.stalled if self.stalled and self.draw.random() < 0.5 else self.held
        if not holders:
            return
        worker, lease = holders.pop(self.draw.randrange(len(holders)))
        if lease.poison:
            slices = load_slices(self.control.objects, JOB, lease.file, lease.shard)
            outcomes = [poisoned(piece) for piece in slices]
            part, summary = (
                f"poison-{lease.token}",
                summarize(outcomes, self.store.jobs.get(JOB).spec),
            )
            write_part(self.control, lease, outcomes, part)
        else:
            try:
                part, summary = worker.write(lease)
            except Exception:  # its shard file was swept: it came too late by a round
                part, summary = "nothing", ShardSummary()
        for _ in range(self.draw.choice((1, 1, 2))):  # a lost reply is asked for again
            _, wants_feed, wants_finish = self.store.shards.commit(lease, part, summary)
            if wants_finish:
                self.control.hints.finish(JOB)
            elif wants_feed:
                self.control.hints.feed(JOB)

    def misfortune(self) -> None:
        """Something goes wrong."""
        what = self.draw.choice(("lose", "die", "stall", "drain", "pause", "tick", "tick", "time"))
        if what == "lose" and self.waiting:
            del self.waiting[self.draw.randrange(len(self.waiting))]
        elif what in ("die", "stall", "drain") and self.held:
            self._part_with(self.held.pop(self.draw.randrange(len(self.held))), what)
        elif what == "pause":
            self.store.jobs.pause(self.store.jobs.get(JOB), "someone pauses")
        elif what == "tick":
            self.monitor.tick()
        elif what == "time":
            self.pass_time()

    def _part_with(self, held: tuple[Worker, Lease], what: str) -> None:
        _, lease = held
        if what == "drain":
            self.store.shards.release(lease)
            return
        member = f"{lease.job_id}/{lease.shard}"
        past = {member: self.store.now_ms() - 1}
        self.store.client.zadd(self.store.keys.open(MODEL), past, xx=True)
        if what == "stall":
            self.stalled.append(held)

    def pass_time(self) -> None:
        """Long enough that steps of dead coordinators, and jobs nobody touched, are due."""
        self.store.client.hdel(self.store.keys.job(JOB), "step_token", "step_until")
        self.store.jobs.look_again(JOB, after_ms=-1)
        if self.store.jobs.get(JOB).paused:
            self.store.jobs.resume(self.store.jobs.get(JOB))

    # ---- how it goes on -------------------------------------------------------------------------

    def turn(self, trouble: float) -> None:
        """One thing happens."""
        self.waiting += self.control.hints.take()
        if self.draw.random() < trouble:
            self.misfortune()
        elif self.draw.random() < 0.5:
            self.deliver()
        else:
            self.commit()

    def live(self, turns: int, trouble: float) -> None:
        """Go on until the job is finished, or for so many turns."""
        for _ in range(turns):
            if self.store.jobs.get(JOB).finished:
                return
            self.turn(trouble)

    def calm_down(self) -> None:
        """From here on nothing goes wrong; whoever is dead stays dead."""
        self.held.clear()
        for lease in list(self.store.client.hkeys(self.store.keys.job_open(JOB))):
            past = {f"{JOB}/{lease}": self.store.now_ms() - 1}
            self.store.client.zadd(self.store.keys.open(MODEL), past, xx=True)
        for _ in range(400):
            if self.store.jobs.get(JOB).finished:
                return
            self.pass_time()
            self.monitor.tick()
            self.waiting = self.control.hints.take()
            while self.waiting:
                kind, *args = self.waiting.pop(0)
                if kind == "shard":
                    self._claim(self.workers[0], *args)
                    while self.held:
                        self.commit()
                else:
                    (feed if kind == "feed" else finish)(args[0], self.control)
        raise AssertionError(f"the job did not end: {self.store.jobs.get(JOB)}")


@pytest.fixture
def lines() -> list:
    requests: list = [
        {
            "id": f"r{n}",
            "query": f"query {n}",
            "documents": [f"doc {n} {i}" for i in range(n % 6 + 1)],
        }
        for n in range(25)
    ]
    requests[4] = b"no json"
    requests[9] = {"id": "r9", "query": "query 9", "documents": ["good", 5, "fails", "good too"]}
    return requests


@pytest.fixture
def world(store, fleet, objects, hints, change, jsonl, lines, client):
    """`world(seed)`: a submitted job of small shards and its troubled surroundings."""
    control = Control(
        store, objects, hints, change(shard_pairs_max=4, window_min=6, hint_grace_s=0)
    )
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    uri = objects.at("jobs", JOB, "input.jsonl")
    objects.write(uri, jsonl(*lines).read_bytes())
    stat = objects.stat(uri)
    spec = make_spec(model=MODEL, input=InputRef(uri=uri, size=stat.size, tag=stat.tag))
    store.jobs.create(JOB, spec, "digest")
    hints.feed(JOB)
    return lambda seed: World(control, random.Random(seed))


def died(output_lines: list[dict]) -> int:
    return sum(e["code"] == "worker_died" for line in output_lines for e in line["errors"])


@pytest.mark.parametrize("seed", range(12))
def test_every_pair_comes_back_exactly_once(world, lines, seed):
    lived = world(seed)

    lived.live(turns=150, trouble=0.3)
    lived.calm_down()

    written = output(lived.control)
    check(lines, written)
    counts = manifest(lived.control)
    assert counts.pairs == counts.scored + counts.errors == pairs_of(lines)
    assert counts.errors == 3 + died(written)
    assert open_shards(lived.store, MODEL) == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_cancelled_and_retried_job_is_whole_again(world, lines, seed):
    lived = world(100 + seed)
    lived.live(turns=30 + 10 * seed, trouble=0.3)
    lived.store.jobs.cancel(lived.store.jobs.get(JOB))
    lived.live(turns=40, trouble=0.3)
    lived.calm_down()
    check(lines, output(lived.control))
    assert manifest(lived.control).pairs == pairs_of(lines)

    if lived.store.jobs.retry(lived.store.jobs.get(JOB), "all") == "reopened":
        lived.control.hints.feed(JOB)
        lived.live(turns=100, trouble=0.3)
        lived.calm_down()

    written = output(lived.control)
    check(lines, written)
    counts = manifest(lived.control)
    assert counts.cancelled == 0
    assert counts.errors == 3 + died(written)
    assert counts.scored + counts.errors == pairs_of(lines)


@pytest.mark.parametrize("seed", range(6))
def test_every_pair_of_a_catalog_comes_back_exactly_once(
    store, fleet, objects, hints, change, client, tmp_path, seed
):
    """Given a folder of images, shards that end in the midst of one, and other files beside."""
    control = Control(store, objects, hints, change(shard_pairs_max=4, window_min=6))
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    images = [f"{n % 4}/{n:02}.png" for n in range(20)]
    for name in (*images, "2/readme.txt"):
        objects.write(objects.at("images", *name.split("/")), b"x")
    queries = [Document(id=f"q{n}", text=f"query {n}") for n in range(3)]
    objects.write(queries_uri(objects, JOB), dump_queries(queries))
    pinned = InputRef(uri=objects.at("images") + "/", size=0, tag="")
    catalog = Catalog(queries=InputRef(uri="", size=99, tag=""), count=3)
    store.jobs.create(JOB, make_spec(model=MODEL, input=pinned, catalog=catalog), "digest")
    hints.feed(JOB)
    lived = World(control, random.Random(seed))

    lived.live(turns=150, trouble=0.3)
    lived.calm_down()

    folder, counts = store.jobs.get(JOB).facts["output"], manifest(control)
    rows = [
        row
        for part in counts.parts
        for row in parse_rows(objects.read(folder + part.name), "jsonl")
    ]
    assert [(row["image_id"], row["query_id"]) for row in rows] == [
        (objects.at("images", *name.split("/")), query.id)
        for name in sorted(images)
        for query in queries
    ]
    for row in rows:
        text = f"query {row['query_id'][1:]}"
        if "error" in row:
            assert row["error"]["code"] == "worker_died"
        else:
            assert row["margin"] == margin_of(text, row["image_id"])
    assert counts.scored == sum("margin" in row for row in rows)
    assert counts.pairs == len(rows) == 60


def test_an_undisturbed_job_needs_no_monitor(world, lines, store):
    """The monitor ticks all the while, with its usual grace, and has nothing to do."""
    from rerankfleet.workers.monitor import REPUBLISHED

    lived = world(0)
    lived.monitor = Monitor(
        store,
        lived.control.objects,
        lived.control.hints,
        lived.control.settings.model_copy(update={"hint_grace_s": 5}),
    )
    while not store.jobs.get(JOB).finished:
        lived.monitor.tick()
        lived.waiting += lived.control.hints.take()
        if lived.waiting:
            lived._carry_out(*lived.waiting.pop(0)) if lived.waiting[0][0] == "shard" else (
                feed if lived.waiting[0][0] == "feed" else finish
            )(lived.waiting.pop(0)[1], lived.control)
        if lived.held:
            lived.commit()

    assert store.coordination.event_count(REPUBLISHED) == 0
    check(lines, output(lived.control))
