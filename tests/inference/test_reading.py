"""Reading ahead in threads: everything arrives, whatever the threads' timing, and errors do too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from blosam.inference import reading
from blosam.inference.reading import Reader


class Numbers(Reader):
    """Every input gives itself; the real ones need a predictor."""

    def __init__(self) -> None:
        pass

    def read(self, item):
        if item < 0:
            raise ZeroDivisionError(str(item))
        yield item


class Prompt(ThreadPoolExecutor):
    """Threads that are quicker than the one that starts them."""

    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        wait([future], timeout=0.5)
        return future


@pytest.mark.timeout(30)
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_everything_arrives_once_even_when_threads_end_before_anything_is_taken(monkeypatch, workers, ahead, count):
    monkeypatch.setattr(reading, "ThreadPoolExecutor", Prompt)
    assert sorted(Numbers().steps(range(count), workers, ahead)) == list(range(count))


@pytest.mark.timeout(30)
def test_what_a_thread_did_not_expect_is_raised_and_no_thread_stays():
    with pytest.raises(ZeroDivisionError):
        list(Numbers().steps([1, 2, -1, *range(3, 50)], 2, 1))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blosam-read")]


@pytest.mark.timeout(30)
def test_a_consumer_that_stops_early_stops_the_threads():
    steps = Numbers().steps(range(1000), 2, 1)
    next(steps)
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blosam-read")]
