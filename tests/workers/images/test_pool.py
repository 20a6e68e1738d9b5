"""Decoding in processes apart: whatever happens to one, every other image has its image."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.decode import decode
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.images.turns import Caller, Signal
from tests.support.drawn import draw_leaves, encoded
from tests.support.wait import patient, wait_until

OPTIONS = ImageSpec(target=(128, 96), resize_mode="fit", pad_color=(9, 9, 9))
WAIT_S = patient(30)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(1, timeout_s=WAIT_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def small() -> bytes:
    return encoded(draw_leaves(160, 120, discs=40), "JPEG")


def pids_of(pool: Pool) -> list[int]:
    """The running processes."""
    return [decoder.child.pid for decoder in pool._decoders if decoder.child]


def pid_of(pool: Pool, data: bytes) -> int:
    """The process, once it runs."""
    pool.prepare(data, OPTIONS).result(WAIT_S)
    (pid,) = pids_of(pool)
    return pid


def test_an_image_comes_back_as_it_was_decoded(pool, small):
    image, expected = pool.prepare(small, OPTIONS).result(WAIT_S), decode(small, OPTIONS)
    assert image == expected
    assert (image.pixels == expected.pixels).all()
    assert image.pixels.dtype == np.uint8
    for name in ("original", "cropped_share", "sharpness", "exposure", "kind", "size", "tokens"):
        assert getattr(image, name) == getattr(expected, name)


def test_a_bad_image_is_an_item_error_with_its_hint(pool, small):
    with pytest.raises(ItemError, match="JPEG, PNG") as caught:
        pool.prepare(b"%PDF-1.7", OPTIONS).result(WAIT_S)
    assert caught.value.code == "unsupported_image"
    assert pool.prepare(small, OPTIONS).result(WAIT_S)


def test_a_process_that_dies_costs_one_image(pool, small):
    # given a process that is stopped, so that it holds one image while another waits
    pid = pid_of(pool, small)
    os.kill(pid, signal.SIGSTOP)
    lost, next_one = pool.prepare(small, OPTIONS), pool.prepare(small, OPTIONS)
    wait_until(lost.running)
    # when it is killed
    os.kill(pid, signal.SIGKILL)
    # then this image is an error, and the next one is decoded by another process
    with pytest.raises(ItemError, match="died") as caught:
        lost.result(WAIT_S)
    assert caught.value.code == "decode_crashed"
    assert next_one.result(WAIT_S).size == (128, 96)
    assert pids_of(pool) != [pid]


def test_a_process_that_hangs_costs_one_image(small):
    with Pool(1, timeout_s=0.5) as pool:
        os.kill(pid_of(pool, small), signal.SIGSTOP)
        lost, next_one = pool.prepare(small, OPTIONS), pool.prepare(small, OPTIONS)
        with pytest.raises(ItemError, match=r"within 0\.5 s") as caught:
            lost.result(WAIT_S)
        assert caught.value.code == "decode_timeout"
        assert next_one.result(WAIT_S)


def test_a_process_that_died_while_idle_costs_nothing(pool, small):
    pid = pid_of(pool, small)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pool.prepare(small, OPTIONS).result(WAIT_S)


def test_fuzzed_images_leave_the_process_alive(pool, small):
    rng = random.Random(5)
    pid, futures = pid_of(pool, small), []
    for _ in range(300):
        data = bytearray(small)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        futures.append(pool.prepare(bytes(data), OPTIONS))
    outcomes = [future.exception(WAIT_S) for future in futures]
    assert all(error is None or isinstance(error, ItemError) for error in outcomes)
    assert pids_of(pool) == [pid]


def test_images_wait_outside_while_too_many_bytes_are_in_flight(small):
    with Pool(1, timeout_s=WAIT_S, in_flight_bytes=2 * len(small)) as pool:
        # given a process that does not go on, and as many bytes as may be in flight
        pid = pid_of(pool, small)
        os.kill(pid, signal.SIGSTOP)
        futures = [pool.prepare(small, OPTIONS) for _ in range(2)]
        # when one more is submitted
        thread = threading.Thread(target=lambda: futures.append(pool.prepare(small, OPTIONS)))
        thread.start()
        thread.join(0.1)
        # then it waits until there is room
        assert thread.is_alive()
        os.kill(pid, signal.SIGCONT)
        thread.join(WAIT_S)
        assert all(future.result(WAIT_S) for future in futures)


def test_a_cancelled_image_is_not_decoded(pool, small):
    pid = pid_of(pool, small)
    os.kill(pid, signal.SIGSTOP)
    first, second, third = (pool.prepare(small, OPTIONS) for _ in range(3))
    assert second.cancel()
    os.kill(pid, signal.SIGCONT)
    assert first.result(WAIT_S)
    assert third.result(WAIT_S)


def test_closing_ends_the_processes_and_what_waits(small):
    pool = Pool(1, timeout_s=WAIT_S)
    pid = pid_of(pool, small)
    os.kill(pid, signal.SIGSTOP)
    held, waiting = pool.prepare(small, OPTIONS), pool.prepare(small, OPTIONS)
    wait_until(held.running)
    pool.close()
    assert waiting.cancelled()
    assert isinstance(held.exception(WAIT_S), ItemError)
    assert pids_of(pool) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.prepare(small, OPTIONS)


def test_an_image_that_needs_too_much_memory_is_an_error(small):
    wide = encoded(Image.new("RGB", (9_000, 9_000)), "PNG", compress_level=1)
    with Pool(1, timeout_s=WAIT_S, memory_bytes=200 << 20) as pool:
        with pytest.raises(ItemError) as caught:
            pool.prepare(wide, OPTIONS).result(WAIT_S)
        assert caught.value.code == "image_too_large"
        assert pool.prepare(small, OPTIONS).result(WAIT_S)


# ---- turns, and what nobody waits for -----------------------------------------------------------


def stopped(pool: Pool, small: bytes) -> int:
    """The process of a pool, which does not go on until it is continued."""
    pid = pid_of(pool, small)
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_many_images_of_a_request_do_not_hold_up_anothers_one(pool, small):
    """Given forty images of a request and of a job, before the one of somebody else."""
    pid, order = stopped(pool, small), []
    job, many, one = Caller("job"), Caller("many", urgent=True), Caller("one", urgent=True)

    def begin(caller: Caller, count: int) -> list[Future[PreparedImage]]:
        futures = [pool.prepare(small, OPTIONS, caller) for _ in range(count)]
        for future in futures:
            future.add_done_callback(lambda _: order.append(caller.turn))
        return futures

    futures = begin(job, 40)
    wait_until(futures[0].running)
    futures += [*begin(many, 40), *begin(one, 1)]
    os.kill(pid, signal.SIGCONT)
    assert all(future.result(WAIT_S) for future in futures)

    assert order.index("one") <= 2
    assert order[3:42] == ["many"] * 39
    assert order[42:] == ["job"] * 39


def test_a_full_pool_takes_an_image_of_who_has_none_in_it(small):
    with Pool(1, timeout_s=WAIT_S, in_flight_bytes=2 * len(small)) as pool:
        pid = stopped(pool, small)
        many, one = Caller("many"), Caller("one")
        futures = [pool.prepare(small, OPTIONS, many) for _ in range(2)]

        futures.append(pool.prepare(small, OPTIONS, one))  # does not block

        os.kill(pid, signal.SIGCONT)
        assert all(future.result(WAIT_S) for future in futures)


def test_unwanted_images_leave_the_pool(small):
    """Given images that are decoded, that wait to be, and that wait for room."""
    with Pool(1, timeout_s=WAIT_S, in_flight_bytes=2 * len(small)) as pool:
        stopped(pool, small)
        unwanted, caller = Signal(), Caller("gone")
        held = pool.prepare(small, OPTIONS, caller, unwanted)
        wait_until(held.running)
        waiting = pool.prepare(small, OPTIONS, caller, unwanted)
        outside = ThreadPoolExecutor(1).submit(pool.prepare, small, OPTIONS, caller, unwanted)

        unwanted.set()

        assert waiting.cancelled()
        assert outside.result(WAIT_S).cancelled()
        assert isinstance(held.exception(WAIT_S), ItemError)  # its process was killed
        assert pool.prepare(small, OPTIONS, Caller("next")).result(WAIT_S)
        assert not pool._in_flight_bytes


def test_an_unwanted_image_that_is_decoded_soon_costs_no_process(pool, small):
    pid, unwanted = stopped(pool, small), Signal()
    held = pool.prepare(small, OPTIONS, Caller("gone"), unwanted)
    wait_until(held.running)
    unwanted.set()
    os.kill(pid, signal.SIGCONT)
    held.exception(WAIT_S)

    assert pool.prepare(small, OPTIONS).result(WAIT_S)
