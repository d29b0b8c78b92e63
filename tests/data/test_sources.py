"""Finding and fetching: a loopback server stands for the web."""

import bz2
import gzip
import hashlib
import http.server
import importlib.machinery
import io
import lzma
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamics.data import download, sources
from dynamics.data.sources import Official, locate
from dynamics.errors import InputError

DUMP = b"<mediawiki><page><title>A</title><revision><text>one</text></revision></page>" + b" " * 300_000
CLOSED = "http://127.0.0.1:9/enwik8.zip"
"""The discard port: nobody listens."""


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, so that the download has some length
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


class Web:
    """What the server has, how it behaves, and the ranges of the requests."""

    def __init__(self) -> None:
        self.content = zipped(enwik8=DUMP)
        self.ranges = True
        self.break_after: list[int] = []  # bytes of each reply until the connection drops
        self.requests: list[str] = []
        self.status = 200
        self.url = ""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    web = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(web.status)
            self.end_headers()

        def do_GET(self):
            range_ = self.headers.get("Range", "")
            web.requests.append(range_)
            start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and web.ranges else 0
            body = web.content[start:]
            status = web.status if web.status != 200 else 416 if range_ and not body else 206 if start else 200
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(web.content) - 1}/{len(web.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: web.break_after.pop(0)] if web.break_after else body)

        def log_message(self, *_: object):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}/enwik8.zip"
    monkeypatch.setattr(sources, "ENWIK8", Official(web.url, len(DUMP), hashlib.sha1(DUMP).hexdigest()))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "REACH", 600.0)  # loaded, this machine may take long to answer itself
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ENWIK8", sources.ENWIK8._replace(url=url))


def test_enwik8_is_fetched_once(web: Web, cache: Path):
    source = locate("enwik8", progress=False)
    assert b"".join(source.blocks()) == DUMP
    assert source.identify(False) == (hashlib.sha256(DUMP).hexdigest(), len(DUMP), True)
    assert locate("enwik8", progress=False) == source
    assert web.requests == [""]
    assert not list(cache.glob("*.part"))


def test_the_official_constants():
    assert sources.ENWIK8.size == 100_000_000
    assert sources.ENWIK8.sha1 == "57b8363b814821dc9d47aa4d41f58733519076b2"


def test_a_broken_download_resumes_where_it_broke(web: Web, cache: Path):
    web.break_after = [100_000, 100_000]
    assert b"".join(locate("enwik8", progress=False).blocks()) == DUMP
    assert web.requests == ["", "bytes=100000-", "bytes=200000-"]


def test_the_part_of_an_earlier_run_is_resumed(web: Web, cache: Path):
    cache.mkdir()
    (cache / "enwik8.zip.part").write_bytes(web.content[:5000])
    assert b"".join(locate("enwik8", progress=False).blocks()) == DUMP
    assert web.requests == ["bytes=5000-"]


def test_a_complete_part_is_only_renamed(web: Web, cache: Path):
    cache.mkdir()
    (cache / "enwik8.zip.part").write_bytes(web.content)
    assert b"".join(locate("enwik8", progress=False).blocks()) == DUMP


def test_a_host_without_ranges_starts_over(web: Web, cache: Path):
    web.ranges, web.break_after = False, [100_000]
    assert b"".join(locate("enwik8", progress=False).blocks()) == DUMP


def test_the_part_of_a_failed_download_is_kept(web: Web, cache: Path):
    web.break_after = [1000] * download.ATTEMPTS
    with pytest.raises(InputError, match="5,000 bytes are kept"):
        locate("enwik8", progress=False)
    assert (cache / "enwik8.zip.part").stat().st_size == 5000
    assert not (cache / "enwik8.zip").exists()
    assert b"".join(locate("enwik8", progress=False).blocks()) == DUMP


@pytest.mark.parametrize("content", [zipped(enwik8=DUMP[:-1]), zipped(enwik8=b"X" + DUMP[1:]), b"<html>log in</html>"])
def test_a_wrong_file_is_refused_and_removed(content: bytes, web: Web, cache: Path):
    web.content = content
    with pytest.raises(InputError, match=r"enwik8\.zip"):
        locate("enwik8", progress=False)
    assert not list(cache.glob("enwik8.zip*"))


def test_a_closed_port_and_an_error_of_the_host(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch):
    web.status = 503
    with pytest.raises(InputError, match="answers 503"):
        locate("enwik8", progress=False)
    point_to(CLOSED, monkeypatch)
    with pytest.raises(InputError, match=r"cannot be downloaded .*put the file at .*enwik8\.zip by hand"):
        locate("enwik8", progress=False)
    assert not list(cache.glob("enwik8.zip*"))


def test_auto_prefers_enwik8(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch):
    source = locate("auto", progress=False)
    assert source.name == "enwik8"
    assert source.notes == ("auto took enwik8, because 127.0.0.1 answers",)
    point_to(CLOSED, monkeypatch)
    assert locate("auto", progress=False).notes == ("auto took enwik8, because it is in the cache",)


def test_auto_takes_the_sample_where_enwik8_cannot_be_fetched(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gensim", reason="the sample is in gensim")
    web.content = b"<html>log in</html>"
    source = locate("auto", progress=False)
    assert (source.name, source.official) == ("sample", None)
    assert "not a readable zip archive" in source.notes[0]
    point_to(CLOSED, monkeypatch)
    assert "was not reached within 600 s" in locate("auto", progress=False).notes[0]


def test_auto_gives_up_on_a_silent_host(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "REACH", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert not download.answers(url)
    monkeypatch.setattr(download, "REACH", 600.0)
    assert download.answers(web.url)


def test_without_gensim_there_is_no_sample(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'dynamics\[sample\]'"):
        locate("sample")
    point_to(CLOSED, monkeypatch)
    with pytest.raises(InputError, match=r"auto finds no corpus.*dynamics\[sample\]"):
        locate("auto")


def test_the_sample_is_located_without_importing_gensim(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / sources.SAMPLE
    file.parent.mkdir(parents=True)
    file.write_bytes(bz2.compress(DUMP))
    spec = importlib.machinery.ModuleSpec("gensim", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sources, "find_spec", lambda name: spec)
    assert locate("sample").identify(False).dump


PACK = {
    "": bytes,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".zip": lambda b: zipped(d_xml=b),
}


@pytest.mark.parametrize("suffix", PACK)
def test_any_compression_has_one_identity(suffix: str, cache: Path, tmp_path: Path):
    path = tmp_path / f"d.xml{suffix}"
    path.write_bytes(PACK[suffix](DUMP))
    source = locate(str(path))
    assert b"".join(source.blocks()) == DUMP
    assert source.identify(False) == (hashlib.sha256(DUMP).hexdigest(), len(DUMP), True)


@pytest.mark.parametrize("name", ["d.xml", "d.txt", "dump"])
@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz", ".zip"])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_an_archive_that_breaks_off_is_refused_by_name(
    suffix: str, name: str, share: float, tmp_path: Path, cache: Path
):
    content = b"<mediawiki>" + bytes(hashlib.sha256(b"%d" % i).digest()[0] % 64 + 32 for i in range(200_000))
    packed = PACK[suffix](content)
    path = tmp_path / (name + suffix)
    path.write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises(InputError, match=rf"{name}{suffix} (breaks off|is not a readable zip)"):
        locate(str(path)).identify(False)


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz"])
def test_streams_one_after_the_other_are_one_content(suffix: str, cache: Path, tmp_path: Path):
    path = tmp_path / f"d.xml{suffix}"
    first, second = PACK[suffix](DUMP), PACK[suffix](b"and more")
    path.write_bytes(first + second)
    assert b"".join(locate(str(path)).blocks()) == DUMP + b"and more"
    if suffix == ".xz":
        path.write_bytes(first + bytes(8) + second + bytes(4))
        assert b"".join(locate(str(path)).blocks()) == DUMP + b"and more"
    for damaged in (first + b"\1" + second[1:], first + second[:-3]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"d\.xml{suffix} (breaks off|cannot be)"):
            locate(str(path)).identify(False)


@pytest.mark.parametrize("suffix", [".xz", ".bz2", ".gz", ".zip"])
def test_what_is_not_compressed_is_refused(suffix: str, cache: Path, tmp_path: Path):
    path = tmp_path / f"d.xml{suffix}"
    path.write_bytes(b"not compressed")
    with pytest.raises(InputError, match=r"fetch it again|cannot be read"):
        locate(str(path)).identify(False)


def test_a_change_of_the_file_is_noticed(cache: Path, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = locate(str(path)).identify(False)
    assert locate(str(path)).identify(False) == before
    path.write_text("two")
    assert locate(str(path)).identify(False) != before


def test_bad_names_are_refused(cache: Path, tmp_path: Path):
    for name, reason in (
        ("nope", "no corpus and no file called nope: choose enwik8, sample"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(InputError, match=reason):
            locate(str(name))
    other = tmp_path / "words.csv"
    other.write_text("a,b")
    with pytest.raises(InputError, match=r"neither .xml nor .txt"):
        locate(str(other)).identify(False)
    (tmp_path / "two.zip").write_bytes(zipped(a_xml=b"", b_xml=b""))
    with pytest.raises(InputError, match="holds 2 files"):
        locate(str(tmp_path / "two.zip")).identify(False)
