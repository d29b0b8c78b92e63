"""docs/models.md: the verdict on every architecture of transformers does not get worse."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

DOCS = Path(__file__).resolve().parents[2] / "docs"
SAMPLE = (
    *("albert", "aimv2_vision_model", "bamba", "bart", "bert", "blip_text_model", "canine", "clip", "codegen", "cvt"),
    *("deberta-v2", "deepseek_v3", "deepseek_v4", "dinov3_vit", "falcon_mamba", "flaubert", "fsmt", "funnel"),
    *("gemma3n_text", "gemma4_text", "glpn", "gpt_bigcode", "groupvit_vision_model", "hiera", "jamba", "longt5"),
    *("mamba2", "mpnet", "olmo2", "qwen3_next", "rwkv", "speech_to_text", "swinv2", "timesformer", "vivit", "wavlm"),
    *("whisper", "xlm", "xlnet", "yolos"),
)
"""Of every kind: text, images, video, sound; stages, streams, several stacks, time first, no attention."""
VERIFIED = 1  # at least; the page says how many there are


@pytest.fixture(scope="module")
def make_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        import make_models

        yield make_models


def test_the_page_counts_what_it_lists(make_models):
    entries = make_models.read_page()
    assert make_models.PAGE.read_text() == make_models.page(entries.values())
    assert set(entries) >= set(CONFIG_MAPPING) - {"char_transformer"}
    counts = Counter(entry.verdict for entry in entries.values())
    assert counts["verified"] >= VERIFIED
    assert counts["unverified"] <= 40
    assert all(entry.why for entry in entries.values())
    assert not re.search(r"Traceback|/site-packages/", make_models.PAGE.read_text())


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_what_the_page_says(make_models, name):
    assert make_models.judge(name) == make_models.read_page()[name]
    assert make_models.read_page()[name].verdict == "verified"


@pytest.mark.skipif(not os.environ.get("DYNAMICS_ALL_MODELS"), reason="half an hour: set DYNAMICS_ALL_MODELS")
def test_no_verdict_gets_worse(make_models):
    before = make_models.read_page()
    order = ("verified", "unverified", "refused", "not buildable")
    after = {entry.name: entry for entry in make_models.guarded(before)}
    assert [name for name in before if order.index(after[name].verdict) > order.index(before[name].verdict)] == []
