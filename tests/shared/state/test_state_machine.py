"""Any interleaving of what is done to jobs and their shards keeps every pair in exactly one place.

Hypothesis draws the verbs; each is done to a real server and to a plain model, and twice, since a
reply may be lost (`tests/support/store_beside_model.py`, `shard_model.py`). At the end all jobs are
carried to theirs by what the monitor sees alone, and later nothing is left of them.
`make states` draws for longer.
"""

from __future__ import annotations

from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rerankfleet.shared.state.records import Lease
from rerankfleet.shared.state.store import Store
from tests.support.carry_to_end import carry_to_end, end_one, forget_all
from tests.support.shard_model import ERRORS, REJECTED, SCORED, ModelJob, bounds
from tests.support.store_beside_model import (
    LEASE_MS,
    PARTS_TTL_MS,
    RESULT_TTL_MS,
    TICK_MS,
    Place,
    StoreBesideModel,
)

JOBS_MAX = 2
Outcomes = st.sampled_from([SCORED, SCORED, SCORED, ERRORS, REJECTED])


class States(RuleBasedStateMachine):
    """A rule is what one process does at some time. Others may have been frozen before they do
    what they were about to: so rules also take what was read or held long ago."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.both = StoreBesideModel(self.store)
        self.sound = True

    @initialize(pairs=st.integers(3, 8), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def a_job_is_there(self, pairs: int, sizes: list[int]) -> None:
        self.both.feed((self.both.submit(pairs), 0, "", 0), sizes)

    def turn(self) -> None:
        """A little time passes before every rule."""
        self.sound = False
        self.both.pass_time(1)

    def jobs(self) -> list[ModelJob]:
        return list(self.both.model.jobs.values())

    def unfinished(self) -> list[ModelJob]:
        return [job for job in self.jobs() if job.finished_at is None and not job.inline_ttl]

    def a_job(self, data: st.DataObject, *, ended: bool = False) -> str:
        """Any job, also one that is forgotten; mostly one that has `ended` or has not."""
        some = [job.id for job in self.jobs() if (job.finished_at is not None) == ended]
        return data.draw(st.sampled_from([*some * 3, *list(self.both.records)[-2:]]), "job")

    def a_lease(self, data: st.DataObject) -> Lease:
        """Mostly one that is held, sometimes one that was."""
        held = {shard.token for job in self.jobs() for shard in job.shards.values()}
        live = [lease for lease in self.both.leases if lease.token in held]
        return data.draw(st.sampled_from([*live * 2, *self.both.leases[-8:]]), "lease")

    def a_shard(self, data: st.DataObject) -> tuple[str, str]:
        """Mostly an open shard, sometimes one that was."""
        now = [(job.id, name) for job in self.jobs() for name in job.shards]
        return data.draw(st.sampled_from([*now * 3, *self.both.shards[-4:]]), "shard")

    # ---- jobs ------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.jobs()) < JOBS_MAX)
    @rule(pairs=st.integers(1, 8))
    def submit(self, pairs: int) -> None:
        self.turn()
        self.both.submit(pairs)

    @precondition(lambda self: len(self.jobs()) < JOBS_MAX)
    @rule(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), keyed=st.booleans())
    def ask(self, sizes: list[int], keyed: bool) -> None:
        self.turn()
        self.both.ask(sizes, keyed=keyed)

    @precondition(lambda self: self.both.places)
    @rule(data=st.data(), sizes=st.lists(st.integers(1, 6), max_size=3), short=st.booleans())
    def feed(self, data: st.DataObject, sizes: list[int], short: bool) -> None:
        self.turn()
        unsealed = (job for job in self.jobs() if not job.sealed)
        now: list[Place] = [(job.id, job.round, job.cursor, job.cut) for job in unsealed]
        place = data.draw(st.sampled_from([*now * 3, *self.both.places[-3:]]), "from")
        self.both.feed(place, sizes, short=short)

    @precondition(lambda self: self.both.records)
    @rule(
        data=st.data(),
        verb=st.sampled_from(["pause", "resume", "resume", "cancel", "retry", "retry errors"]),
    )
    def a_person(self, data: st.DataObject, verb: str) -> None:
        self.turn()
        verb, _, only = verb.partition(" ")
        id_ = self.a_job(data, ended=verb == "retry")
        if verb == "pause":
            self.both.pause(id_)
        elif verb == "resume":
            self.both.resume(id_)
        elif verb == "cancel":
            self.both.cancel(id_)
        elif id_.startswith("job"):  # a small request is not retried
            self.both.retry(id_, only or "all")

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), errors=st.booleans(), again=st.booleans())
    def end_and_retry(self, data: st.DataObject, errors: bool, again: bool) -> None:
        """A job is carried to its end, and its next round may have shards of the same names."""
        self.turn()
        job = data.draw(st.sampled_from(self.unfinished()), "job")
        end_one(self.both, job.id, ERRORS if errors else SCORED)
        if again and job.finished_at is not None:
            self.both.retry(job.id, "all")
            self.both.feed((job.id, job.round, job.cursor, job.cut), job.sizes)

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data(), held=st.booleans())
    def pause_for_what_failed(self, data: st.DataObject, held: bool) -> None:
        """A worker does so under its lease; the last step even where the job is cancelled."""
        self.turn()
        lease = self.a_lease(data)
        if held:
            self.both.pause(lease.job_id, lease=lease)
        else:
            self.both.pause(lease.job_id, even_cancelled=True)

    # ---- steps of the coordinator ----------------------------------------------------------------

    @precondition(lambda self: any(not job.inline_ttl for job in self.jobs()))
    @rule(data=st.data(), again=st.booleans())
    def begin_step(self, data: st.DataObject, again: bool) -> None:
        self.turn()
        if again and self.both.steps:
            self.both.step("begin", *data.draw(st.sampled_from(self.both.steps[-3:]), "step"))
            return
        jobs = [job.id for job in self.jobs() if not job.inline_ttl]
        id_ = data.draw(st.sampled_from(jobs), "job")
        self.both.step("begin", id_, self.both.new_name("step"))

    @precondition(lambda self: self.both.steps)
    @rule(data=st.data(), verb=st.sampled_from(["hold", "end", "decide", "undecide", "finish"]))
    def go_on_with_step(self, data: st.DataObject, verb: str) -> None:
        self.turn()
        id_, token = data.draw(st.sampled_from(self.both.steps[-4:]), "step")
        attempts = [other for job_id, other in self.both.steps if job_id == id_]
        self.both.step(verb, id_, token, data.draw(st.sampled_from(attempts), "attempt"))

    # ---- shards ----------------------------------------------------------------------------------

    @precondition(lambda self: self.both.shards)
    @rule(
        data=st.data(),
        worker=st.sampled_from(["w1", "w2", "w3"]),
        alone=st.booleans(),
        fingerprint=st.sampled_from(["fp", "fp", "fp", "other"]),
    )
    def claim(self, data: st.DataObject, worker: str, alone: bool, fingerprint: str) -> None:
        self.turn()
        id_, name = self.a_shard(data)
        held = [x.token for x in self.both.leases if (x.job_id, x.shard) == (id_, name)]
        token = data.draw(st.sampled_from([self.both.new_name("token"), *held[-2:]]), "token")
        self.both.claim(id_, name, token, worker=worker, alone=alone, fingerprint=fingerprint)

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data(), count=st.integers(1, 3))
    def renew(self, data: st.DataObject, count: int) -> None:
        self.turn()
        self.both.renew([self.a_lease(data) for _ in range(count)])

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.turn()
        self.both.die(self.a_lease(data))

    @precondition(lambda self: self.both.shards)
    @rule(data=st.data(), times=st.integers(1, 3), at_once=st.booleans())
    def die_alone_with_a_suspect(self, data: st.DataObject, times: int, at_once: bool) -> None:
        """Until it is to be split, which is done at once, or later by `split`."""
        self.turn()
        id_, name = self.a_shard(data)
        for _ in range(times):
            answer = self.both.claim(id_, name, self.both.new_name("token"), alone=True)
            if isinstance(answer, Lease):
                self.both.die(answer)
            elif answer == "split" and at_once:
                self.both.split(id_, name)

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data(), again=st.sampled_from([False, False, False, True]))
    def commit(self, data: st.DataObject, again: bool) -> None:
        """By whoever scored it, also long after its lease; or the same call as before."""
        self.turn()
        if again and self.both.commits:
            self.both.commit(*data.draw(st.sampled_from(self.both.commits[-4:]), "commit"))
            return
        lease = self.a_lease(data)
        start, end = bounds(lease.shard)
        outcomes = st.lists(Outcomes, min_size=end - start, max_size=end - start)
        self.both.commit(lease, self.both.new_name("part"), data.draw(outcomes, "outcomes"))

    @precondition(lambda self: self.both.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.turn()
        self.both.release(self.a_lease(data))

    @precondition(lambda self: self.both.splits)
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        self.turn()
        self.both.split(*data.draw(st.sampled_from(self.both.splits[-4:]), "split"))

    # ---- time and the monitor --------------------------------------------------------------------

    @rule(
        ticks=st.sampled_from(
            [1, 3, 10, 10, 20, PARTS_TTL_MS // TICK_MS + 2, RESULT_TTL_MS // TICK_MS + 2]
        )
    )
    def time_passes(self, ticks: int) -> None:
        self.turn()
        self.both.pass_time(ticks)

    @rule()
    def the_coordinators_stop_or_start(self) -> None:
        self.turn()
        if self.both.pulsing:
            self.both.pulsing = False
        else:
            self.both.pulse()

    @rule()
    def the_monitor_looks(self) -> None:
        """It ends small requests past their deadline, and removes files of jobs that ended."""
        self.turn()
        for job_id in self.both.store.jobs.due():
            if self.both.model.jobs[job_id].inline_ttl:
                self.both.cancel(job_id)
            else:
                self.both.store.jobs.look_again(job_id)
        if self.both.sweeping:
            self.both.end_sweep()
        else:
            self.both.begin_sweep()

    # ---- what must be true -----------------------------------------------------------------------

    @invariant()
    def every_pair_is_in_one_place(self) -> None:
        self.both.check()
        self.sound = True

    def teardown(self) -> None:
        """All jobs end, and nothing is left of them."""
        if self.sound:
            carry_to_end(self.both)
            forget_all(self.both)


@pytest.mark.slow
def test_any_interleaving_keeps_every_pair_in_exactly_one_place(client, change) -> None:
    seconds = {"lease_s": LEASE_MS, "result_ttl_s": RESULT_TTL_MS, "parts_ttl_s": PARTS_TTL_MS}
    settings = change(**{name: ms / 1000 for name, ms in seconds.items()})
    States.store = Store(client, settings)
    examples = max(hypothesis_settings.default.max_examples // 2, 1)
    run_state_machine_as_test(
        States, settings=hypothesis_settings(max_examples=examples, stateful_step_count=40)
    )
