"""Models unlike Llama: read, mapped, edited and decoded as transformers has them, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import draw_weights, random_tokens, tiny_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import step_saliency as ss
from step_saliency.intervene import HeadScale
from step_saliency.models import doctor, load_model
from step_saliency.models.convert import from_transformers, has_hooked
from step_saliency.models.masks import last_rows

SHAPE: dict[str, Any] = {
    "vocab_size": len(tiny_tokenizer()),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}
GEMMA4: dict[str, Any] = {
    "head_dim": 12,
    "global_head_dim": 16,
    "sliding_window": 6,
    "vocab_size_per_layer_input": SHAPE["vocab_size"],
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
KINDS: dict[str, dict[str, Any]] = {
    "afmoe": {**EXPERTS, "head_dim": 8, "num_dense_layers": 1},
    "bitnet": {},
    "deepseek_v2": {**LATENT, "first_k_dense_replace": 1},
    "gemma4_text": {**GEMMA4, "hidden_size_per_layer_input": 0},
    "gpt_neox": {},
    "hrm_text": {"head_dim": 8},
    "olmo": {"clip_qkv": 0.8},
    "openai-gpt": {"n_positions": 128, "num_key_value_heads": 4},
    "phi3": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
}
STEPS = ([0, 1, 8, 9, 14, 20], ["template", "question", "template"] + ["thinking"] * 3)


def plain(kind: str, **options: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{**SHAPE, **KINDS[kind], **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return draw_weights(model)


def bridged(kind: str, **options: Any) -> Any:
    return from_transformers(plain(kind, **options), tiny_tokenizer(), backend="bridge", name=kind)


def a_trace(n_tokens: int = 26, *, seed: int = 0) -> ss.Trace:
    starts, regions = STEPS
    return ss.Trace.from_tokens(
        random_tokens(n_tokens, seed=seed)[0], starts=starts, regions=regions
    )


def test_traces_of_unlike_length_are_mapped_together_where_heads_are_viewed() -> None:
    """AFMoE and JetMoE ask what attention returns for a view, which transformers' own has."""
    model, traces = bridged("afmoe"), [a_trace(), a_trace(22, seed=1)]
    together = ss.step_saliency(model, traces)
    for trace, maps in zip(traces, together, strict=True):
        alone = ss.step_saliency(model, trace).maps
        assert (maps.maps - alone).abs().max() < 1e-5 * alone.max()


@torch.no_grad()
def test_momentum_is_of_the_values_that_attention_weighs() -> None:
    """OLMo clips values behind the point that shows them; transformers' own in place."""
    trace, edit = a_trace(), ss.StepMomentumInjection([1], alpha=1.0)
    model, reference = bridged("olmo"), plain("olmo")
    attention = reference.model.layers[1].self_attn
    values: list[Tensor] = []
    attention.v_proj.register_forward_hook(lambda _m, _args, out: values.append(out))

    def inject(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        clipped = values[0][0].unflatten(-1, (2, 8)).repeat_interleave(2, dim=1)
        z = args[0].clone()
        for start, (first, stop) in {9: (1, 8), 14: (9, 14), 20: (14, 20)}.items():
            z[0, start] += clipped[first:stop].mean(0).flatten()
        return (z,)

    attention.o_proj.register_forward_pre_hook(inject)
    expected = reference(trace.tokens[None]).logits
    assert float((values[0].abs() == 0.8).float().mean()) > 0.1
    with edit.attached(model, trace=trace):
        attached = model(trace.tokens[None])
    hooks = edit.bound_to(trace, model=model).hooks(model)
    by_hand = model.run_with_hooks(trace.tokens[None], fwd_hooks=hooks)
    for logits in (attached, by_hand):
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "edit", [ss.StepMomentumInjection([1]), HeadScale(["L1H0"], 0.0)], ids=["momentum", "head"]
)
def test_edits_of_head_outputs_that_are_normed_before_their_hook_are_refused(edit: Any) -> None:
    """BitNet norms what its heads put out together, before ``hook_z``."""
    model, trace = bridged("bitnet"), a_trace()
    with pytest.raises(ValueError, match=r"head_outputs .*method='fast'"), edit.attached(model):
        pass
    assert ss.step_saliency(model, trace).method == "streaming"
    bridge = ss.OddsEqualBridge([1], tau_max=0.6)
    with torch.no_grad(), bridge.attached(model, trace=trace):
        model(trace.tokens[None])


@pytest.mark.parametrize("kind", ["bitnet", "deepseek_v2", "gemma4_text", "olmo", "opt"])
def test_the_fast_loop_writes_what_transformers_writes(kind: str) -> None:
    model, reference = bridged(kind), plain(kind)
    options: Any = {"temperature": 0.0, "max_new_tokens": 6, "progress": False, "method": "fast"}
    (trace,) = ss.generate(model, "What is 3 and 4?", **options)
    tokens, n_new = trace.tokens, trace.meta["response_tokens"]
    with torch.no_grad():
        logits = reference(tokens[None], use_cache=False).logits[0, -n_new - 1 : -1]
    assert logits.argmax(-1).tolist() == tokens[-n_new:].tolist()


def test_responses_end_where_cached_keys_would_be_rotated_otherwise() -> None:
    """Phi-3 and Phi-4-mini turn all positions by other angles beyond some length."""
    rope = {"rope_type": "longrope", "rope_theta": 1000.0, "original_max_position_embeddings": 30}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}
    options: dict[str, Any] = {"original_max_position_embeddings": 30, "rope_parameters": rope}
    model, reference = bridged("phi3", **options), plain("phi3", **options)
    decoding: Any = {"temperature": 0.0, "progress": False, "method": "fast"}
    short, long = "What is 3 and 4?", " and ".join(["What is 3"] * 8)
    with pytest.warns(UserWarning, match=r"cut at 30 tokens.*longrope"):
        (cut,) = ss.generate(model, short, max_new_tokens=40, **decoding)
    assert len(cut) == 30
    assert not cut.meta["finished"]
    (beyond,) = ss.generate(model, long, max_new_tokens=12, **decoding)
    assert len(beyond) - beyond.meta["response_tokens"] > 30
    for trace in (cut, beyond):
        n_new = trace.meta["response_tokens"]
        prompt = trace.tokens[None, :-n_new]
        told: Any = {"attention_mask": torch.ones_like(prompt), "do_sample": False}
        expected = reference.generate(prompt, max_new_tokens=n_new, **told)
        assert torch.equal(expected[0], trace.tokens)
    with pytest.raises(ValueError, match="1 of 2 responses begin beyond 30 tokens"):
        ss.generate(model, [short, long], max_new_tokens=4, **decoding)


def test_layers_with_sizes_of_their_own_are_read_and_mapped(tmp_path: Path) -> None:
    """Gemma 4 has wider heads where attention is full, and its config refuses to name one width."""
    plain("gemma4_text").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path, backend="bridge")
    assert ss.estimate(model, 40).streaming.refusal is None
    assert ss.step_saliency(model, a_trace()).method == "streaming"


def test_embeddings_of_layers_are_no_hindrance_and_shared_keys_are_one() -> None:
    model = bridged("gemma4_text", hidden_size_per_layer_input=8)
    assert ss.step_saliency(model, a_trace()).method == "streaming"
    shared = bridged("gemma4_text", hidden_size_per_layer_input=8, num_kv_shared_layers=1)
    with pytest.raises(ValueError, match=r"last 1 layers .*keys and values of earlier layers"):
        ss.step_saliency(shared, a_trace())


def test_layers_that_are_no_row_of_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"HrmTextForCausalLM are no row of blocks.* L_blocks"):
        bridged("hrm_text")


@pytest.mark.skipif(not has_hooked(), reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_neox_without_biases_is_refused() -> None:
    model = plain("gpt_neox", attention_bias=False)
    with pytest.raises(ValueError, match=r"attention without biases.*backend='bridge'"):
        from_transformers(model, tiny_tokenizer(), backend="hooked")


def test_masks_are_read_where_blocks_return_lists() -> None:
    model = bridged("openai-gpt")
    assert last_rows(model, 9).all()
    (result,) = doctor(model, checks=["windows"]).results
    assert "IndexError" not in result.note
