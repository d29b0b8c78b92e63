import base64
import hashlib
import json
import re

import pytest

from dynamics.watch import document

DATA = {"rows": [{"key": "</script><script>alert(1)</script>", "text": "a\u2028b <!-- "}], "at": 0.5}


def data_in(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_data_stay_data():
    page = document.single_file(DATA)
    assert data_in(page) == DATA
    assert page.count("<script") == 2
    assert "<!--" not in page


def test_its_policy_allows_what_is_inside_and_no_request():
    page = document.single_file(DATA)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|self|https?:", policy)
    for kind, tag in (("script", "<script>"), ("style", "<style>")):
        (inside,) = re.findall(rf"{tag}(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_nothing_is_left_to_be_fetched():
    page = document.single_file(DATA).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|<link|\ssrc=|@import|url\(", page)


def test_what_json_cannot_hold_is_no_page():
    with pytest.raises(ValueError, match="JSON"):
        document.single_file({"at": float("nan")})
