"""The merging of configurations, and what a file may not hold."""

import pytest

from dynamics.config import read_config, split_options
from dynamics.errors import InputError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "a stands there twice"),
        ("metrics: {entropy: , anisotropy: , entropy: }", "entropy stands there twice"),
        ("config: other.yaml", "config has no effect"),
        ("- a", "must be a YAML mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_what_a_file_may_not_hold(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_config(path)


def test_anchors_are_merged_as_yaml_says(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")
    assert read_config(path)["b"] == {"x": 1, "y": 3}


def test_packages_are_allowed_by_either_spelling():
    assert split_options(["--allow-classes", "a", "--allow_classes=b"]).allowed == ["a", "b"]
