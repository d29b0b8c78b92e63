"""What a run does beside its steps ends with it."""

import gc
import threading

import pytest

from dynamics.training.background import Background


@pytest.fixture
def background():
    callback = Background()
    yield callback
    gc.unfreeze()


@pytest.mark.parametrize("end", [lambda b: b.on_fit_end(None, None), lambda b: b.on_exception(None, None, OSError())])
def test_objects_are_frozen_while_steps_are_made(background, end):
    before = gc.get_freeze_count()
    background.on_train_start(None, None)
    assert gc.get_freeze_count() > before
    end(background)
    assert gc.get_freeze_count() == 0


def test_files_are_written_by_a_thread_and_waited_for_at_the_end(background):
    may_write, threads = threading.Event(), []

    def write():
        may_write.wait()
        threads.append(threading.current_thread())

    background.writer.submit(write)
    assert threads == []
    may_write.set()
    background.on_fit_end(None, None)
    assert threads
    assert threads[0] is not threading.main_thread()


def test_a_write_that_failed_is_raised_at_the_end(background):
    def write():
        raise OSError("the disk is full")

    background.writer.submit(write)
    with pytest.raises(OSError, match="full"):
        background.on_fit_end(None, None)
