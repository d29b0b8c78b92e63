"""States are (batch, tokens, width) of the batch, however the model lays them out, or they are refused."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, FlaubertConfig, FlaubertModel, XLNetConfig, XLNetModel

from dynamics.capture import capture
from dynamics.capture.states import InputShape, StateLayout, input_shape, learn_layout
from dynamics.errors import InputError
from dynamics.measure import measure
from tests.capture.test_function_mode import WIDTH, Block, by_sdpa
from tests.capture.zoo import VIT


def captured(model, batch, sites=("residual",)):
    states = {}
    with capture(model, sites, lambda site, layer, x, valid: states.update({(site, layer): (x.clone(), valid)})) as tap:
        model(**batch)
    return states, tap


def ids(rows, tokens):
    return torch.randint(5, 40, (rows, tokens), generator=torch.Generator().manual_seed(rows))


def hidden(model, batch):
    with torch.no_grad():
        return model.eval()(**batch, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("tokens", [3, 7])
def test_time_first_states_are_turned_even_where_rows_and_tokens_are_as_many(tokens):
    model = XLNetModel(XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_head=8, d_inner=24)).eval()
    batch = {"input_ids": ids(3, tokens)}
    states, _ = captured(model, batch)
    own = hidden(model, batch)
    for layer in range(3):
        torch.testing.assert_close(states["residual", layer][0], own[layer])


STREAMS = {
    **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8},
    **{"intermediate_size": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def gemma3n():
    more = {"vocab_size_per_layer_input": 40, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 0}
    more |= {"laurel_rank": 2, "activation_sparsity_pattern": [0.0] * 2, "num_key_value_heads": 1, "sliding_window": 4}
    more |= {"layer_types": ["sliding_attention", "full_attention"], "altup_active_idx": 1}
    return AutoConfig.for_model("gemma3n_text", **STREAMS, **more)


def deepseek_v4():
    more = {"q_lora_rank": 8, "o_lora_rank": 8, "o_groups": 2, "moe_intermediate_size": 8, "n_routed_experts": 4}
    more |= {"num_experts_per_tok": 2, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 4, "sliding_window": 4}
    more |= {"qk_rope_head_dim": 4, "layer_types": ["sliding_attention"] * 2, "mlp_layer_types": ["moe"] * 2}
    return AutoConfig.for_model("deepseek_v4", **STREAMS, **more)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rows", [4, 5])
def test_of_stacked_streams_the_active_is_measured(rows, padded):
    torch.manual_seed(0)
    model = AutoModel.from_config(gemma3n()).eval()
    batch = {"input_ids": ids(rows, 6)}
    if padded:
        batch["attention_mask"] = torch.ones(rows, 6, dtype=torch.long)
        batch["attention_mask"][1, 4:] = 0
    rows_measured = measure(model, [batch], ["mean_norm"]).rows
    assert {row.n for row in rows_measured} == {rows * 6 - 2 * padded}
    states, _ = captured(model, batch)
    own = hidden(model, batch)
    for layer in range(2):
        torch.testing.assert_close(states["residual", layer][0], own[layer][1])


def test_streams_beside_the_width_are_averaged():
    torch.manual_seed(0)
    model = AutoModel.from_config(deepseek_v4()).eval()
    batch = {"input_ids": ids(3, 8)}
    states, _ = captured(model, batch)
    own = hidden(model, batch)
    assert own[1].ndim == 4
    torch.testing.assert_close(states["residual", 1][0], own[1].mean(2))


def test_layers_that_are_lists_of_parts():
    config = FlaubertConfig(vocab_size=40, emb_dim=16, n_layers=2, n_heads=2, pad_index=0)
    model = FlaubertModel(config).eval()
    for norm in (*model.layer_norm1, *model.layer_norm2):
        norm.weight.data.uniform_(0.5, 2)
    batch = {"input_ids": ids(3, 7)}
    states, tap = captured(model, batch)
    assert tap.layout.exits == ("layer_norm2.0", "layer_norm2.1")
    for layer, x in enumerate(hidden(model, batch)):
        torch.testing.assert_close(states["residual", layer][0], x)


class Loose(nn.Module):
    """Attentions and linear parts in lists of their own: no module returns the stream."""

    def __init__(self):
        super().__init__()
        self.attentions = nn.ModuleList([Block(by_sdpa).attention for _ in range(2)])
        self.linears = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)])

    def forward(self, x):
        for attention, linear in zip(self.attentions, self.linears, strict=True):
            x = x + attention(x)
            x = x + linear(x)
        return x


def test_lists_of_parts_whose_stream_no_module_returns_are_refused():
    with pytest.raises(InputError, match="Loose keeps its layers as lists of parts"):
        captured(Loose(), {"x": torch.randn(2, 4, WIDTH)})


def test_timesformer_has_one_layer_where_it_attends_twice():
    config = AutoConfig.for_model("timesformer", **{**VIT, "num_hidden_layers": 3, "num_frames": 2})
    model = AutoModel.from_config(config).eval()
    batch = {"pixel_values": torch.randn(2, 2, 3, 32, 32)}
    states, tap = captured(model, batch)
    assert tap.layers == 3
    for layer, x in enumerate(hidden(model, batch)):
        torch.testing.assert_close(states["residual", layer][0], x)


def test_the_output_of_dinov3_comes_after_its_norm():
    model = AutoModel.from_config(AutoConfig.for_model("dinov3_vit", **VIT)).eval()
    model.norm.weight.data.fill_(3)
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    states, _ = captured(model, batch, ["output"])
    with torch.no_grad():
        torch.testing.assert_close(states["output", 2][0], model(**batch).last_hidden_state)


def test_states_of_another_batch_are_refused_with_layer_and_shape():
    layer = nn.Linear(3, 3)
    with pytest.raises(InputError, match=r"layer 4 has states of shape \(6, 5, 3\), .* of a batch of 2"):
        StateLayout().read(torch.zeros(6, 5, 3), layer, InputShape(2), "layer 4")


def test_images_are_read_by_the_width_of_their_module():
    x, norm = torch.arange(2 * 4 * 4 * 4.0).view(2, 4, 4, 4), nn.LayerNorm(8)
    first = StateLayout().read(torch.zeros(2, 8, 4, 5), norm, InputShape(2), "")
    last = StateLayout().read(torch.zeros(2, 4, 5, 8), norm, InputShape(2), "")
    assert first.shape == last.shape == (2, 20, 8)
    assert torch.equal(StateLayout().read(x, norm, InputShape(2), ""), x.flatten(2).transpose(1, 2))


def test_the_layout_is_learnt_from_what_the_model_reads():
    class Text(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            pass

    batch = input_shape(Text(), (torch.zeros(4, 6, dtype=torch.long),), {})
    assert batch == (4, 6)
    assert learn_layout((6, 4, 8), batch, [], 0) == StateLayout(time_first=True)
    assert learn_layout((4, 6, 8), batch, [], 0) == StateLayout()
    assert learn_layout((3, 4, 6, 8), batch, [], 2) == StateLayout(streams=0, active=2)
    assert learn_layout((4, 6, 3, 8), batch, [], 0) == StateLayout(streams=2)
    assert input_shape(nn.Linear(2, 2), (torch.zeros(5, 7, 2),), {}) == InputShape()
