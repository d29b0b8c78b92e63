import json
import re

import pytest
from starlette.testclient import TestClient

from dynamics.watch import document
from dynamics.watch.app import application
from dynamics.watch.serve import names_of
from dynamics.watch.store import Store
from tests.report.conftest import write_run

BASE = "http://127.0.0.1:8765"


@pytest.fixture
def client(store):
    return TestClient(application(store, names_of("127.0.0.1"), is_closing=lambda: True), base_url=BASE)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/api/view", "/nowhere"])
def test_every_answer_keeps_the_page_to_itself(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:9999", 200),
        ("[::1]:8765", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("evil.example:8765", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1:8765@evil.example", 421),
        ("192.168.0.7:8765", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_its_own_names_are_answered(client, small, host, status):
    small("a")
    answer = client.get("/api/view?run=a", headers={"host": host})
    assert answer.status_code == status
    assert ("anisotropy" in answer.text) == (status == 200)


def test_where_all_addresses_are_served_any_address_is_a_name_but_no_other_name_is():
    client = TestClient(application(Store(), names_of("0.0.0.0")))
    for host, status in (("192.168.0.7:8765", 200), ("[fe80::1]:8765", 200), ("localhost", 200), ("evil.example", 421)):
        assert client.get("/", headers={"host": host}).status_code == status
    named = TestClient(application(Store(), names_of("192.168.0.7")))
    assert named.get("/", headers={"host": "192.168.0.7"}).status_code == 200
    assert named.get("/", headers={"host": "192.168.0.8"}).status_code == 421


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/..%2fsecret",
        "/page/../../secret",
        "/checkpoints/a/run.json",
        "/api/view?run=../secret",
        "/api/view?run=..%2f..%2fsecret",
        "/api/view?run=a/../../secret",
        "/api/view?run=/etc",
        "/api/heads?run=a%00",
        "/api/view?run=a/record",
    ],
)
def test_nothing_but_runs_can_be_read(client, small, place, path):
    small("a")
    small("../secret", value=0.77)
    (place / "secret" / "run.json").write_text('{"run": "secret", "label": "secret words"}')
    answer = client.get(path)
    assert not re.search(r"0\.77|secret words|root:", answer.text)
    assert answer.status_code == 404 or answer.json()["runs"] == {}


def test_of_named_runs_the_others_beside_them_cannot_be_read(small, place):
    small("a")
    small("b")
    client = TestClient(application(Store(["a"]), names_of("127.0.0.1")), base_url=BASE)
    assert list(client.get("/api/view?run=a&run=b").json()["runs"]) == ["a"]


@pytest.mark.parametrize("since", ["x", "-1", "1e3", "٣", "1;2"])
def test_a_version_that_is_none_is_refused(client, since):
    answer = client.get("/api/view", params={"since": since})
    assert (answer.status_code, answer.text) == (400, "since must be a whole number.")


def test_only_reading_is_possible(client, small):
    small("a")
    assert {client.request(method, "/api/view").status_code for method in ("POST", "PUT", "DELETE", "OPTIONS")} == {405}


def test_hostile_names_travel_as_data(client, small, place):
    evil = "</script><img src=x onerror=alert(1)>"
    small("a", run=evil)
    write_run(
        place / "checkpoints" / "a", {"run": evil, "kind": "fit", "label": evil, "error": evil, "status": "failed"}
    )
    answer = client.get("/api/view?run=a")
    assert answer.headers["content-type"] == "application/json"
    assert evil in answer.json()["arms"][0]["name"]


def test_the_scripts_never_take_data_for_markup():
    script = document.script()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
        "DOMParser",
    ):
        assert way not in script
    assert not re.search(r"setAttribute\(\s*[\"']on|javascript:", script)


def test_the_pieces_ask_for_nothing_from_elsewhere():
    pieces = document.page() + document.style() + document.script().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(|//cdn", pieces)
    assert set(re.findall(r"(?:src|href)=\"([^\"]*)\"", document.page())) == {"page.css", "page.js", "#"}


def test_events_end_with_the_server(client, small):
    small("a")
    assert client.get("/api/events").text == ""


def test_events_begin_with_all_rows(store, small):
    small("a")
    closing = iter([False, True])
    client = TestClient(application(store, names_of("127.0.0.1"), lambda: next(closing)), base_url=BASE)
    answer = client.get("/api/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    (event,) = [line for line in answer.text.split("\n\n") if line]
    content = json.loads(event.removeprefix("data: "))
    assert (content["all"], content["gone"]) == (True, [])
    assert [row["key"] for row in content["rows"]] == ["a"]
