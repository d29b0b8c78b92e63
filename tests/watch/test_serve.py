import json
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

from dynamics.cli.main import main
from dynamics.errors import InputError
from dynamics.watch import serve
from dynamics.watch.store import Store
from tests.watch.test_document import data_in


@contextmanager
def serving(*names):
    """Serve in a thread; yields the address."""
    with serve.bind("127.0.0.1", 0) as listening:
        server = serve.make_server(Store(names), "127.0.0.1")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "streams of events kept the server"


def events(stream):
    """The contents of the events of a stream, as they arrive."""
    for line in stream:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def test_a_new_part_is_announced(small):
    small("a")
    with serving() as address, urllib.request.urlopen(f"{address}/api/events", timeout=30) as stream:
        news = events(stream)
        (row,) = next(news)["rows"]
        assert (row["key"], row["step"]) == ("a", 1)
        small("a", 8)
        (later,) = next(news)["rows"]
        assert later["version"] > row["version"]
        with urllib.request.urlopen(f"{address}/api/view?run=a&since={row['version']}", timeout=30) as answer:
            parts = json.load(answer)["runs"]["a"]["parts"]
        assert list(parts) == ["geometry-0000000008.parquet"]
        small("b")
        (other,) = next(news)["rows"]
        assert other["key"] == "b"


def test_a_port_in_use_gives_way_to_the_next(capsys, monkeypatch, place):
    with serve.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with serve.bind("127.0.0.1", port) as other:
            assert port < other.getsockname()[1] < port + serve.TRIED
        monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
        main(["watch", "--port", str(port)])
    out = capsys.readouterr().out
    assert f"port {port} is in use: the page is at the next one that is free." in out
    assert f"http://127.0.0.1:{port}/" not in out


def test_all_runs_are_looked_at_before_the_address_is_said(capsys, monkeypatch, place):
    said = []
    monkeypatch.setattr(Store, "runs", lambda self: said.append(capsys.readouterr().out))
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    main(["watch", "--port", "0"])
    assert said == [""]
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_only_loopback_is_served_unless_one_asks_for_more(capsys, monkeypatch, place):
    bound = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: bound.append(sockets[0].getsockname()[0]))
    main(["watch", "--port", "0"])
    assert "CAUTION" not in capsys.readouterr().out
    main(["watch", "--port", "0", "--host", "0.0.0.0"])
    assert "CAUTION: whoever reaches 0.0.0.0" in capsys.readouterr().out
    assert bound == ["127.0.0.1", "0.0.0.0"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "70000"], "--port 70000 must be from 0 to 65535"),
        (["--host", ""], "--host must name an address"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid, --port 8765 cannot be served at"),
        (["nothing"], "no run named nothing"),
        (["--once", "page.html"], "there is no run under checkpoints/ to show"),
        (["--once", "."], "--once . is a folder"),
        (["--once", "none/page.html"], "the folder none does not exist"),
        (["--once", "page.html", "--port", "1"], "--port has no effect with --once; remove it."),
    ],
)
def test_bad_input_is_refused_in_a_sentence(capsys, place, words, sentence):
    with pytest.raises(SystemExit, match="2"):
        main(["watch", *words])
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert [*place.iterdir()] == []


def test_one_file_holds_the_runs(make, place, capsys):
    make("d0")
    make("e0", "encoder")
    main(["watch", "d0", "--once", "page.html"])
    assert "page: page.html" in capsys.readouterr().out
    data = data_in((place / "page.html").read_text())
    assert {path.name for path in place.iterdir()} == {"checkpoints", "page.html"}
    assert [row["key"] for row in data["rows"]] == ["d0"]
    assert list(data["view"]["runs"]) == list(data["heads"]["runs"]) == ["d0"]
    assert abs(data["at"] - time.time()) < 600


def test_of_many_runs_one_file_holds_the_newest(small, place, capsys, monkeypatch):
    monkeypatch.setattr(serve, "MOST_INSIDE", 2)
    for name in "abc":
        small(name)
        time.sleep(0.02)
    serve.write_page([], place / "page.html")
    assert "of 3 runs, the file has the records of the 2 written last" in capsys.readouterr().out
    data = data_in((place / "page.html").read_text())
    assert ([row["key"] for row in data["rows"]], sorted(data["view"]["runs"])) == (["a", "b", "c"], ["b", "c"])


def test_a_socket_that_cannot_be_had_is_refused(monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    with pytest.raises(InputError, match="--port 80 cannot be served at"):
        serve.bind("127.0.0.1", 80)
