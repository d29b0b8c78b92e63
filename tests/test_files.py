"""Files that a thread writes: in order, none after one that fails, whose error comes out."""

import threading

import pytest

from dynamics import files
from dynamics.files import HELD, QUEUED, BackgroundWriter, write_atomically, write_text


def fail():
    raise OSError("full")


def test_writes_happen_in_order_while_the_caller_goes_on():
    writer, may_write, written = BackgroundWriter(), threading.Event(), []
    writer.submit(may_write.wait)
    for number in range(QUEUED - 1):
        writer.submit(lambda number=number: written.append(number))
    assert not written
    may_write.set()
    writer.finish()
    assert written == list(range(QUEUED - 1))


@pytest.mark.parametrize("sizes", [[0] * QUEUED, [HELD, 1]], ids=["files", "bytes"])
def test_no_more_wait_to_be_written_than_memory_allows(sizes):
    writer, may_write = BackgroundWriter(), threading.Event()
    for size in sizes:
        writer.submit(may_write.wait, size)
    one_more = threading.Thread(target=writer.submit, args=(may_write.wait,))
    one_more.start()
    one_more.join(timeout=0.05)
    assert one_more.is_alive()
    may_write.set()
    one_more.join()
    writer.finish()


def test_old_lines_are_left_out_once_in_a_while_and_not_at_every_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST", 2000)
    written = []

    def noted(path, text, digest):
        written.append(path)
        write_text(path, text, digest)

    monkeypatch.setattr(files, "write_text", noted)
    for number in range(100):  # about 90 bytes a line, all of which are kept
        write_atomically(tmp_path / f"{number}", lambda file: file.write(b"x"))
    assert 3 <= len(written) <= 9000 // 2000
    assert len(files.digests(tmp_path)) == 100
    written.clear()
    for number in range(100):
        write_atomically(tmp_path / "0", lambda file, number=number: file.write(b"%d" % number))
    assert written
    assert len(files.digests(tmp_path)["0"]) < 50


def test_nothing_is_written_after_a_failure_which_is_raised_once():
    writer, written = BackgroundWriter(), []
    writer.submit(fail)
    writer._thread.submit(lambda: None).result()  # it has failed by now
    with pytest.raises(OSError, match="full"):
        writer.submit(lambda: written.append(1))
    writer.submit(lambda: written.append(2))
    writer.finish()
    assert not written


def test_a_failure_is_raised_at_the_end_where_nothing_follows():
    writer = BackgroundWriter()
    writer.submit(fail)
    with pytest.raises(OSError, match="full"):
        writer.finish()
