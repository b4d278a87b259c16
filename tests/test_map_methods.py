"""Maps of every method against derivatives and interventions taken one by one."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import step_saliency as ss
from analyses.instruments.maps import all_maps, value_norms
from step_saliency.models.convert import from_transformers, has_hooked
from step_saliency.saliency.hooks import reduce_influence
from step_saliency.saliency.objectives import LogOdds, NextToken
from step_saliency.saliency.pooling import step_layout
from step_saliency.trace import Trace
from tests.brute import with_transformers
from tests.tiny import BACKENDS, draw_weights, random_tokens, tiny_model, tiny_tokenizer

N_TOKENS = 13
STARTS = [0, 2, 6, 7, 10]
REGIONS = ["question", "question", "thinking", "thinking", "summary"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_tokens(random_tokens(N_TOKENS)[0], starts=STARTS, regions=REGIONS)


def score_gradients(model: Any, tokens: torch.Tensor, objective: Any) -> torch.Tensor:
    """|dL_t/dS| of each row by autograd alone, one backward pass per position."""
    scores: dict[int, torch.Tensor] = {}

    def keep(of_layer: torch.Tensor, hook: Any) -> None:
        scores[hook.layer()] = of_layer

    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        logits = model(tokens[None], return_type="logits")[0]
    ordered = [scores[layer] for layer in range(model.cfg.n_layers)]
    found = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, len(tokens), len(tokens))
    for query in range(len(tokens) - 1):
        at_query = torch.tensor([query])
        loss = objective.position_losses(logits[at_query], tokens, at_query).sum()
        for layer, of_layer in enumerate(torch.autograd.grad(loss, ordered, retain_graph=True)):
            found[layer, :, query] = of_layer[0, :, query].abs()
    return found


@pytest.mark.parametrize("objective", [NextToken(), LogOdds()], ids=["next_token", "log_odds"])
@pytest.mark.parametrize("arch", ["qwen2", "gemma2", "gpt_oss", "gpt2-like"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_score_gradients_are_those_of_autograd(backend: Any, arch: Any, objective: Any) -> None:
    model = tiny_model(arch, backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    reduced = reduce_influence(
        model,
        tokens,
        objective,
        layers=range(model.cfg.n_layers),
        reduce=lambda influence: influence,
        quantity="score_gradient",
    )
    found = torch.stack([reduced[layer] for layer in range(model.cfg.n_layers)]).double()
    truth = score_gradients(model, tokens, objective).double()
    assert truth.max() > 1e-3
    # a bridge normalises in float32 even in float64
    assert (found - truth).abs().max() < 1e-5 * truth.max()


def written_by(model: Any, tokens: torch.Tensor, layer: int, pattern: torch.Tensor) -> torch.Tensor:
    """What the attention of a layer writes at each position under a pattern put in its place."""
    written: dict[str, torch.Tensor] = {}

    def put(_: torch.Tensor, hook: Any) -> torch.Tensor:
        return pattern

    def keep(out: torch.Tensor, hook: Any) -> None:
        written["out"] = out.detach()[0]

    hooks = [
        (f"blocks.{layer}.attn.hook_pattern", put),
        (f"blocks.{layer}.hook_attn_out", keep),
    ]
    model.run_with_hooks(tokens[None], fwd_hooks=hooks)
    return written["out"]


@pytest.mark.parametrize("arch", ["qwen2", "llama", "gpt2-like"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_norms_are_what_one_weight_of_one_writes(
    backend: Any, arch: Any, trace: Trace
) -> None:
    """Grouped keys and values with four heads for two in qwen2 and llama."""
    model = tiny_model(arch, backend=backend)
    norms = value_norms(model, trace)
    assert norms.shape == (model.cfg.n_layers, model.cfg.n_heads, N_TOKENS)
    for layer in (0, 2):
        nothing = torch.zeros(1, model.cfg.n_heads, N_TOKENS, N_TOKENS)
        without = written_by(model, trace.tokens, layer, nothing)
        for head in range(model.cfg.n_heads):
            one = nothing.clone()
            one[0, head] = torch.eye(N_TOKENS)
            alone = written_by(model, trace.tokens, layer, one) - without
            torch.testing.assert_close(alone.norm(dim=-1), norms[layer, head], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(norms[:, 0], norms[:, 1], rtol=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_baselines_are_pooled_like_attention(backend: Any, trace: Trace) -> None:
    model = tiny_model("qwen2", backend=backend)
    maps = {(m.method, m.objective): m for m in all_maps(model, trace, rows="query", seed=0)}
    pattern = {}
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]

    def keep(of_layer: torch.Tensor, hook: Any) -> None:
        pattern[hook.layer()] = of_layer.detach()[0]

    model.run_with_hooks(trace.tokens[None], fwd_hooks=[(name, keep) for name in names])
    norms = value_norms(model, trace)
    ends = [*STARTS[1:], N_TOKENS]
    for query, key in [(3, 0), (3, 2), (2, 1)]:
        rows, columns = range(STARTS[query], ends[query]), range(STARTS[key], ends[key])
        total = sum(float(pattern[1][2, t, k] * norms[1, 2, k]) for t in rows for k in columns)
        found = maps["attention_norm", None].maps[1, 2, query, key]
        assert found.item() == pytest.approx(total, rel=1e-4)
    lengths = torch.tensor([2.0, 4.0, 1.0, 3.0, 3.0]).double()
    assert torch.equal(maps["key_length", None].maps[0, 0], lengths.expand(5, 5))
    layout = step_layout(trace.step_ids, rows="query")
    assert maps["score_gradient", "log_odds"].maps.shape[2:] == (layout.n_steps,) * 2


SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "intermediate_size": 48}
WINDOWED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"n_routed_experts": 4, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
}
UNLIKE: dict[str, dict[str, Any]] = {
    "falcon": {**SHAPE, "multi_query": True, "parallel_attn": True},
    "bloom": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "vocab_size": 320},
    "bitnet": GROUPED,
    "gemma4_text": {
        **GROUPED,
        **WINDOWED,
        "head_dim": 12,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 320,
    },
    "exaone4": {**GROUPED, **WINDOWED},
    "olmo": {**GROUPED, "clip_qkv": 1.0},
    "deepseek_v3": {**SHAPE, "intermediate_size": 48, **LATENT, **EXPERTS, "v_head_dim": 6},
    "cohere": {**GROUPED, "logit_scale": 0.3},
    "hunyuan_v1_dense": {**GROUPED, "head_dim": 12},
}
"""Architectures whose blocks, masks, keys or rotations are unlike those of Llama."""
BY_STREAMING = {
    "opt": "its hooks only report it",
    "gemma4_text": "its hooks only report it",
    "bitnet": "head_outputs",
    "olmo": "clip_qkv=1.0",
    "deepseek_v3": "score_products .*products of the queries",
    "hunyuan_v1_dense": "score_products .*products of the queries",
}
"""Which hook points do not show as they are."""
UNLIKE_TRANSFORMERS = ("cohere", "hunyuan_v1_dense")
"""Which bridges of TransformerLens 3 compute otherwise than their checkpoints."""


@pytest.mark.parametrize("kind", UNLIKE)
def test_maps_of_other_architectures_are_right_or_refused(kind: str) -> None:
    config = AutoConfig.for_model(kind, **UNLIKE[kind])
    model = draw_weights(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))
    tokens = random_tokens(9)[0]
    truth = with_transformers(model, tokens, NextToken())
    trace = Trace.from_tokens(tokens, starts=list(range(9)), regions=["thinking"] * 9)
    bridge: Any = from_transformers(model, tiny_tokenizer(), backend="bridge", name=kind)
    if kind in UNLIKE_TRANSFORMERS and has_hooked():
        for method in ("hooks", "streaming"):
            with pytest.raises(ValueError, match=r"transformers_attention .*another version"):
                ss.step_saliency(bridge, trace, method=method)
        return
    maps = ss.step_saliency(bridge, trace, pool="sum", per_head=True)
    assert maps.method == ("streaming" if kind in BY_STREAMING else "hooks")
    assert (maps.maps - truth).abs().max() < 1e-4 * truth.max()
    if kind in BY_STREAMING:
        with pytest.raises(ValueError, match=f"{BY_STREAMING[kind]}.* method='streaming'"):
            ss.step_saliency(bridge, trace, method="hooks")
