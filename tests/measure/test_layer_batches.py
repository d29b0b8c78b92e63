"""Layers that are fed together give the rows of layers that are fed alone."""

import math

import pytest
import torch

from dynamics.measure import Meter, Suite, layer_batches, measure
from dynamics.metrics.streaming import Estimate, Metric, Moments, States, Sums
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

IDS = torch.randint(40, (24, 24), generator=torch.Generator().manual_seed(1))
MASK = torch.arange(24) < torch.randint(12, 25, (24, 1), generator=torch.Generator().manual_seed(2))
WHOLE = [{"input_ids": IDS[:14]}, {"input_ids": IDS[14:]}]
PADDED = [{"input_ids": IDS[:14], "attention_mask": MASK[:14]}, {"input_ids": IDS[14:], "attention_mask": MASK[14:]}]


def model(**settings):
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    network = CharTransformerLM(CharTransformerConfig(**shape, **settings))
    for weight in network.parameters():  # far from the start, where all states of a layer are nearly equal
        weight.data += 0.1 * torch.randn(weight.shape)
    return network


@pytest.fixture
def batched(monkeypatch):
    """Feed layers together, as on a GPU."""

    def use(value):
        made = lambda suite, device, batched, share: Meter(suite, device, batched=value)  # noqa: E731
        monkeypatch.setattr("dynamics.measure.measurement.Meter", made)

    return use


def equal(row, other):
    assert row[:8] == other[:8]
    facts = [(x.n, x.windows, x.reason) for x in (row, other)]
    assert facts[0] == facts[1], row
    for name in ("value", "low", "high", "n_effective"):
        assert getattr(row, name) == pytest.approx(getattr(other, name), rel=1e-6, abs=1e-9, nan_ok=True), (name, row)


def both(batched, metrics=None, batches=WHOLE, network=None, **options):
    network, results = network or model(), []
    for value in (True, False):
        batched(value)
        results.append(measure(network, batches, metrics, **options))
    together, alone = results
    assert len(together.rows) == len(alone.rows) > 0
    for row, other in zip(together.rows, alone.rows, strict=True):
        equal(row, other)
    return results


@pytest.mark.parametrize("batches", [WHOLE, PADDED], ids=["whole", "padded"])
def test_every_row_array_and_reference_is_that_of_layers_fed_alone(batched, batches):
    together, alone = both(batched, batches=batches, references={})
    assert together.references.keys() == alone.references.keys()
    for name, kept in alone.references.items():
        torch.testing.assert_close(together.references[name], kept)
    arrays = [{(x.site, x.layer, x.head, x.metric): x.values for x in result.arrays} for result in (together, alone)]
    assert arrays[0].keys() == arrays[1].keys()
    for key, values in arrays[1].items():
        assert arrays[0][key] == pytest.approx(values, rel=1e-6), key
    kept = measure(model(), batches, ["drift"], references={}).references
    later, _ = both(batched, ["drift"], batches, model(initializer_range=0.3), step=1, references=kept)
    assert all(math.isfinite(row.value) for row in later.rows)


def test_layers_are_fed_in_one_call(batched, monkeypatch):
    heads, update = [], Moments.update
    monkeypatch.setattr(Moments, "update", lambda self, batch: (heads.append(batch.x.shape[1]), update(self, batch))[1])
    batched(True)
    measure(model(), WHOLE, ["isoscore", "kurtosis"])
    assert heads == [5, 5]  # layers 0 to 3 and the output, in both batches


def test_layers_too_large_to_wait_are_fed_alone(batched, monkeypatch):
    monkeypatch.setattr(layer_batches, "LARGEST", 14 * 24 * 16 * 4 - 1)  # between the first batch and the second
    both(batched, ["mean_norm", "isoscore", "entropy", "intrinsic_dimension"], WHOLE)
    both(batched, ["mean_norm", "isoscore", "entropy", "intrinsic_dimension"], WHOLE[::-1])


class Share(Sums):
    """A user's quantity of our sums, which takes its heads as those of one layer."""

    def value_and_influence(self, states):
        mean = states.mean[:, : states.width].norm(dim=-1)
        return mean / mean.sum(), states.deviations[..., -1] * 0


class Spread(Moments):
    """A user's quantity of the tokens kept."""

    sites = ("residual",)

    def value_and_influence(self, states):
        x, windows = states.sample
        of_tokens = (x - states.mean[:, None].to(x)).square().sum(-1)
        value = states.covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        return value, states.influence(of_tokens - value[:, None].to(x), windows)


class Largest(Metric):
    """A user's quantity with states of its own."""

    sites = ("residual", "query")

    def __init__(self):
        super().__init__()
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")

    @property
    def accumulator(self):
        return Largest

    def update(self, batch):
        self.largest = torch.maximum(self.largest, batch.x.abs().max())

    def estimate(self, states):
        value = states.largest.double().cpu().numpy()[None]
        return Estimate(value, value, value, 1)


class Doubled(Sums):
    """A user's sums, filled by its own update."""

    sites = ("residual",)

    def update(self, batch):
        super().update(States(2 * batch.x, batch.windows))

    def value_and_influence(self, states):
        assert states.total.shape[0] == 1  # its layer alone
        return states.mean[:, -1], states.deviations[..., -1]


def test_metrics_of_a_user_see_one_layer(batched):
    names = [f"{__name__}.{kind.__name__}" for kind in (Share, Spread, Largest, Doubled)]
    both(batched, [*names, "mean_norm", "isoscore"], PADDED)


def test_budgets_count_the_tokens_of_one_layer(batched):
    together, _ = both(batched, {"isoscore": {"max_tokens": 100}, "entropy": {"max_tokens": 100}, "mean_norm": None})
    assert {row.n for row in together.rows} == {120, 576}


def fed(batches, together):
    """The rows of a meter that gets some batches by layer."""
    meter = Meter(
        Suite.parse(["mean_norm", "isoscore", "anisotropy_uncentered", "kurtosis", "mean_cosine"]), batched=together
    )
    for layer, batch in batches:
        meter.feed("residual", layer, batch)
    return meter.compute().rows


def states(seed, n=40, width=6, windows=None):
    x = torch.randn(n, 1, width, generator=torch.Generator().manual_seed(seed)) + 1
    return States(x, windows if windows is not None else torch.arange(n) // 4)


def test_a_state_that_is_not_finite_spoils_its_own_layer_alone():
    windows = torch.arange(40) // 4
    batches = [(layer, states(layer, width=70, windows=windows)) for layer in range(3)]
    batches[1][1].x[7] = torch.nan
    rows = fed(batches, together=True)
    for row, other in zip(rows, fed(batches, together=False), strict=True):
        equal(row, other)
    assert {row.layer for row in rows if math.isnan(row.value)} == {1}


def test_layers_of_other_tokens_widths_or_batches_are_told_apart():
    windows = torch.arange(40) // 4
    unlike = [
        (0, states(0, windows=windows)),
        (1, states(1, windows=windows)),
        (2, states(2, width=5, windows=windows)),
        (3, states(3, windows=windows + 0)),  # equal, but who knows without asking
        (1, states(4, windows=windows + 100)),  # a layer that is called twice
    ]
    for row, other in zip(fed(unlike, together=True), fed(unlike, together=False), strict=True):
        equal(row, other)


def test_layers_that_are_no_longer_fed_alike_part():
    windows = torch.arange(40) // 4
    meters = [Meter(Suite.parse(["mean_norm", "isoscore", "kurtosis"]), batched=value) for value in (True, False)]
    for meter in meters:
        for start, layers in ((0, (0, 1, 2)), (100, (0, 2)), (200, (0, 1, 2))):
            meter.begin_batch({"input_ids": torch.arange(40)[None] + start})
            of_batch = windows + start
            for layer in layers:
                meter.feed("residual", layer, states(start + layer, windows=of_batch))
    rows = [meter.compute().rows for meter in meters]
    for row, other in zip(*rows, strict=True):
        equal(row, other)
    assert [row.n for row in rows[0] if row.metric == "mean_norm"] == [120, 80, 120]
