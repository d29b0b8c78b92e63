"""Which runs belong together."""

from dynamics.report.arms import design
from dynamics.report.study import load


def test_a_run_of_before_other_architectures_is_one_of_the_default():
    old = {"objective": "clm", "model": {"objective": "clm", "depth": 2}}
    new = {
        "objective": "clm",
        "architecture": "char_transformer",
        "model": {"objective": "clm", "depth": 2, "architecture": "char_transformer", "overrides": {}},
    }
    assert design(old) == design(new)
    assert design(old) != design(new | {"architecture": "llama"})


def test_the_versions_that_cleaned_a_text_make_no_other_arm(make):
    def data(recipe, characters):
        return {"corpus": "sample", "sha256": "0" * 64, "recipe": recipe, "characters": characters}

    texts = [data("wikitext 3, Unicode 14.0.0", 900), data("wikitext 3, Unicode 15.0.0", 900)]
    texts += [data("wikitext 2, Unicode 15.0.0", 900), data("wikitext 3, Unicode 15.0.0", 901)]
    study = load([make(f"d{seed}", seed=seed, data=text) for seed, text in enumerate(texts)])
    assert [arm.runs for arm in study.arms] == [("d0", "d1"), ("d2",), ("d3",)]


def test_of_many_arms_each_is_named_by_what_it_alone_has(make):
    models = {
        "plain": {"norm": "pre", "optimizer": "adamw", "rate": 0.001},
        "post": {"norm": "post", "optimizer": "adamw", "rate": 0.001},
        "sgd": {"norm": "pre", "optimizer": "sgd", "rate": 0.1},
    }
    names = load([make(name, model=model) for name, model in models.items()]).arm_names
    label = names[0]
    assert names == [label, f"{label}, norm post", f"{label}, optimizer sgd, rate 0.1"]
