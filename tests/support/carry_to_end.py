"""Jobs carried to their end by what the monitor sees, whatever state they are in."""

from __future__ import annotations

from rerankfleet.shared.state.records import Lease
from rerankfleet.workers.monitor import next_step
from tests.support.records import MODEL
from tests.support.shard_model import ERRORS, OPEN, SCORED, UNREAD, bounds
from tests.support.store_beside_model import StoreBesideModel

TICKS_MAX = 80
"""By then a few small jobs are done, whatever happened to them."""
LONG_TICKS = 4000
"""By then every time is over."""


def carry_to_end(both: StoreBesideModel) -> None:
    """From now on nobody dies, and a person resumes what is paused: all jobs end."""
    if not both.pulsing:
        both.pulse()
    for _ in range(TICKS_MAX):
        both.pass_time(1)
        for job in list(both.model.jobs.values()):
            if job.paused is not None:
                both.resume(job.id)
        for id_ in both.store.jobs.due():
            _do_next_step(both, id_)
        for id_, name in both.store.shards.due(MODEL, 100):
            _score(both, id_, name)
        both.check()
        if not both.store.jobs.unfinished():
            break
    assert both.store.jobs.unfinished() == []
    for job in both.model.jobs.values():
        lost = [pair for pair, place in enumerate(job.places) if place in (UNREAD, OPEN)]
        assert not lost or job.short, f"{job.id} has ended without {lost}"


def end_one(both: StoreBesideModel, id_: str, outcome: str) -> None:
    """Do what is left of one job, unless somebody holds its step; whoever holds a shard of it is
    too late."""
    job = both.model.jobs[id_]
    if job.paused is not None:
        both.resume(id_)
    if not job.sealed:
        both.feed((id_, job.round, job.cursor, job.cut), [1] * len(job.order))
    for lease in both.leases:
        both.die(lease)
    while job.shards:
        _score(both, id_, next(iter(job.shards)), outcome)
    token = both.new_name("step")
    if both.step("begin", id_, token) == "yes":
        both.step("decide", id_, token)
        both.step("finish", id_, token)


def _do_next_step(both: StoreBesideModel, id_: str) -> None:
    job = both.store.jobs.get(id_)
    if "inline" in job.facts:
        both.cancel(id_)
        return
    step, token = next_step(job), both.new_name("step")
    if step is None or both.step("begin", id_, token) != "yes":
        both.store.jobs.look_again(id_)
        return
    if step == "feed":
        known = both.model.jobs[id_]
        place = (id_, known.round, known.cursor, known.cut)
        assert both.feed(place, [1] * len(known.order)) == "opened"
        both.step("end", id_, token)
    else:
        assert both.step("decide", id_, token)
        assert both.step("finish", id_, token)


def _score(both: StoreBesideModel, id_: str, name: str, outcome: str = SCORED) -> None:
    token = both.new_name("token")
    answer = both.claim(id_, name, token)
    if answer == "newer":
        answer = both.claim(id_, name, token, fingerprint="other")
    if answer == "suspect":
        fingerprint = both.model.jobs[id_].fingerprint or "fp"
        answer = both.claim(id_, name, token, alone=True, fingerprint=fingerprint)
    if answer == "split":
        both.split(id_, name)
    elif isinstance(answer, Lease):
        start, end = bounds(name)
        both.commit(
            answer, both.new_name("part"), [ERRORS if answer.poison else outcome] * (end - start)
        )


def forget_all(both: StoreBesideModel) -> None:
    """When all times are over, no key of any job is left, and no list names one."""
    both.end_sweep()
    for _ in range(3):
        both.pass_time(LONG_TICKS)
        both.begin_sweep()
        both.end_sweep()
    keys, left = both.store.keys, set(both.client.keys())
    assert left <= {keys.models, keys.pulse, keys.amnesty}
