"""The order of faults: drawn from a seed, at most one at a place, each mended in the end."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from redis import ConnectionError

from rerankfleet.chaos.faults import Fault, NothingToBreak, by_group
from rerankfleet.chaos.storm import Storm


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(seed: int, seconds: float = 60.0) -> tuple[Storm, list[str]]:
    """A storm of faults that only say what they do."""
    said: list[str] = []
    clock = Clock()

    def fault(name: str, place: str) -> Fault:
        def course(random: Random) -> Iterator[float]:
            said.append(f"{name} breaks")
            try:
                yield random.uniform(0.5, 5.0)
            finally:
                said.append(f"{name} mends")

        return Fault(name, place, 1.0, course)

    faults = [fault("a", "here"), fault("b", "here"), fault("c", "there")]
    storm = Storm(faults, Random(seed), every_s=0.5, clock=clock)
    while clock.now < seconds:
        storm.step()
        clock.now += 0.1
    storm.over()
    return storm, said


def test_a_seed_decides_which_faults_come() -> None:
    assert run(1)[1] == run(1)[1] != run(2)[1]


def test_faults_of_a_place_do_not_overlap_and_all_are_mended() -> None:
    storm, said = run(3)
    assert len(said) == 2 * storm.counts.total() > 20
    broken = set()
    for what in said:
        name, verb = what.split()
        if verb == "breaks":
            assert not (name in "ab" and broken & {"a", "b"})
            assert name not in broken
            broken.add(name)
        else:
            broken.remove(name)
    assert not broken


def test_a_fault_that_cannot_be_begun_or_mended_is_counted_and_ends_nothing() -> None:
    # given a fault that finds nothing, and one whose mending fails
    def nothing(random: Random) -> Iterator[float]:
        raise NothingToBreak("no worker")
        yield 0

    def lasting(random: Random) -> Iterator[float]:
        yield 0.0
        raise ConnectionError("gone")

    clock = Clock()
    faults = [Fault("nothing", "here", 1.0, nothing), Fault("lasting", "there", 1.0, lasting)]
    storm = Storm(faults, Random(0), every_s=0.1, clock=clock)
    # when both come
    for _ in range(100):
        storm.step()
        clock.now += 0.1
    storm.over()
    # then only what broke something counts as a fault
    assert storm.counts["nothing"] == 0
    assert storm.missed["nothing"] > 0
    assert storm.missed["lasting"] == storm.counts["lasting"] > 0


def test_faults_are_told_apart_by_what_was_done() -> None:
    counts = {"worker killed": 3, "server killed": 1, "worker frozen": 2, "hints doubled": 5}
    assert by_group(counts) == {"killed": 4, "frozen": 2, "drained": 0, "other": 5}
