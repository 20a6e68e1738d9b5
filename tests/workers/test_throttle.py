"""A worker that holds its share of a kind leaves that kind's queues, and no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery

from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import as_queues, model_queue, model_queues
from rerankfleet.workers.throttle import ConsumerThrottle

BULK = [model_queue("m", p) for p in (Priority.normal, Priority.bulk)]
INTERACTIVE = model_queue("m", Priority.interactive)


class Consumer:
    """Celery's consumer as far as the throttle knows it; `listens` is the order of the queues."""

    def __init__(self) -> None:
        self.listens = model_queues("m")
        self.soon: list = []
        self.lost = False
        self.app = Celery(set_as_current=False)
        self.app.conf.task_queues = as_queues(model_queues("m"))
        self.app.amqp.queues.select(model_queues("m"))

    def cancel_task_queue(self, queue: str) -> None:
        self.app.amqp.queues.deselect(queue)
        if queue in self.listens:
            self.listens.remove(queue)

    def add_task_queue(self, queue: str) -> None:
        if self.lost:
            raise ConnectionError
        self.app.amqp.queues.select_add(self.app.amqp.queues[queue])
        if queue not in self.listens:
            self.listens.append(queue)

    def call_soon(self, act) -> None:
        self.soon.append(act)

    def turn(self) -> None:
        """One turn of the event loop."""
        while self.soon:
            self.soon.pop(0)()


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def throttle() -> ConsumerThrottle:
    return ConsumerThrottle(BULK, limit=2)


def take(throttle: ConsumerThrottle, consumer: Consumer, queue: str) -> None:
    throttle.received(consumer, SimpleNamespace(delivery_info={"routing_key": queue}))


def test_a_worker_consumes_all_queues_until_its_slots_are_full(throttle, consumer):
    take(throttle, consumer, BULK[0])
    assert consumer.listens == model_queues("m")

    take(throttle, consumer, BULK[1])

    assert consumer.listens == [INTERACTIVE]


def test_interactive_messages_do_not_count(throttle, consumer):
    for _ in range(9):
        take(throttle, consumer, INTERACTIVE)
        throttle.done(INTERACTIVE)
    assert consumer.listens == model_queues("m")


def test_a_free_slot_is_consumed_for_in_the_event_loop_most_urgent_first(throttle, consumer):
    take(throttle, consumer, BULK[0])
    take(throttle, consumer, BULK[0])

    throttle.done(BULK[0])
    assert consumer.listens == [INTERACTIVE]
    consumer.turn()

    assert consumer.listens == model_queues("m")


def test_a_slot_that_was_filled_meanwhile_consumes_nothing_more(throttle, consumer):
    take(throttle, consumer, BULK[0])
    take(throttle, consumer, BULK[0])
    throttle.done(BULK[0])
    take(throttle, consumer, BULK[0])  # it was on its way

    consumer.turn()

    assert consumer.listens == [INTERACTIVE]


def test_a_connection_lost_while_listening_again_forgets_no_queue(throttle, consumer):
    """Given a connection that is lost just when a slot becomes free."""
    take(throttle, consumer, BULK[0])
    take(throttle, consumer, BULK[0])
    throttle.done(BULK[0])
    consumer.lost = True

    with pytest.raises(ConnectionError):
        consumer.turn()

    assert list(consumer.app.amqp.queues.consume_from) == model_queues("m")


def test_interactive_messages_have_a_bound_and_come_first_again(consumer):
    throttle = ConsumerThrottle([INTERACTIVE], limit=2, behind=BULK)
    for _ in range(2):
        take(throttle, consumer, INTERACTIVE)
    assert consumer.listens == BULK

    throttle.done(INTERACTIVE)
    consumer.turn()

    assert consumer.listens == model_queues("m")


def test_bulk_queues_that_were_left_stay_left_when_interactive_is_taken_up(throttle, consumer):
    quick = ConsumerThrottle([INTERACTIVE], limit=1, behind=BULK)
    take(quick, consumer, INTERACTIVE)
    for _ in range(2):
        take(throttle, consumer, BULK[0])
    assert consumer.listens == []

    quick.done(INTERACTIVE)
    consumer.turn()

    assert consumer.listens == [INTERACTIVE]


def test_a_queue_that_was_left_is_among_those_taken_up_after_a_reconnection(throttle):
    """Given Celery's own book of queues, from which a new connection starts."""
    app = Celery(set_as_current=False)
    app.conf.task_queues = as_queues(model_queues("m"))
    app.amqp.queues.select(model_queues("m"))
    app.amqp.queues.deselect(BULK[0])
    assert list(app.amqp.queues.consume_from) == [INTERACTIVE, BULK[1]]

    app.amqp.queues.select_add(app.amqp.queues[BULK[0]])

    assert set(app.amqp.queues.consume_from) == set(model_queues("m"))
