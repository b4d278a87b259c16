"""Sliding windows: keys outside are no pairs, against masks and means that are written out here."""

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from brute import one_backward_per_token
from maps import make_saliency, make_trace
from tiny import (
    BACKENDS,
    Backend,
    _draw,
    random_tokens,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
    tiny_transformers,
)
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.masking_utils import sliding_window_causal_mask_function

import step_saliency as ss
from step_saliency.diagnosis import diagnose
from step_saliency.models import accept
from step_saliency.models.convert import from_transformers
from step_saliency.models.masks import last_rows
from step_saliency.models.windows import seen_keys, windows
from step_saliency.saliency.objectives import NextToken
from step_saliency.saliency.pooling import normalise, step_layout
from step_saliency.saliency.result import StepSaliency
from step_saliency.saliency.streaming import streaming_maps
from step_saliency.trace import Trace

WINDOW, N_LAYERS = 6, 3
POOLS = ("mean", "mass", "block_mean", "sum")
REGIONS, LENGTHS = "_QTTTTSS", [1, 4, 2, 5, 3, 7, 2, 4]
WINDOWS = {
    "mistral": (6, 6, 6),
    "gemma2": (6, None, 6),
    "gemma3": (6, None, 6),
    "gpt_oss": (6, None, 6),
    "qwen2-window": (None, 6, 6),
    "qwen3-window": (None, None, 6),
}
"""What each model's configuration says, read by hand."""
ARCHS = tuple(WINDOWS)


def qwen_config(arch: str) -> Any:
    """Windows from a layer on, as Qwen's ``use_sliding_window`` has them."""
    kind, full = {"qwen2": (Qwen2Config, 1), "qwen3": (Qwen3Config, 2)}[arch.split("-")[0]]
    plain = tiny_config(arch.split("-")[0], n_layers=N_LAYERS).to_dict()
    for name in ("layer_types", "use_sliding_window", "sliding_window", "max_window_layers"):
        plain.pop(name)
    return kind(**plain, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=full)


def windowed_transformers(arch: str) -> PreTrainedModel:
    if not arch.endswith("-window"):
        return tiny_transformers(arch, n_layers=N_LAYERS, window=WINDOW).double()
    model = AutoModelForCausalLM.from_config(qwen_config(arch), attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        _draw(name, parameter, generator)
    return model.double().eval()


@cache
def windowed_model(arch: str, backend: Backend) -> Any:
    model = windowed_transformers(arch)
    return from_transformers(model, tiny_tokenizer(), backend=backend, name=f"tiny-{arch}")


def windowed_trace() -> Trace:
    template = make_trace(REGIONS, LENGTHS)
    return Trace(tokens=random_tokens(sum(LENGTHS))[0], steps=template.steps)


def sees(query: int, key: int, window: int | None) -> bool:
    """The definition: a window of w are the query itself and the w - 1 positions before it."""
    return query - (window or query + 1) < key <= query


def written_out(weights: list[Tensor], of_layers: tuple[int | None, ...]) -> Any:
    """Attention of transformers with a mask made pair by pair; its weights are kept."""

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> Any:
        window, n = of_layers[module.layer_idx], q.shape[2]
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q @ k.mT * options["scaling"]
        if options.get("softcap"):
            scores = options["softcap"] * torch.tanh(scores / options["softcap"])
        for query in range(n):
            for key in range(n):
                if not sees(query, key, window):
                    scores[:, :, query, key] = -torch.inf
        sinks = options.get("s_aux")
        if sinks is not None:
            column = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column.to(scores)], -1)
        pattern = scores.softmax(-1)[..., :n]
        weights.append(pattern)
        return (pattern @ v).transpose(1, 2), pattern

    return attend


@cache
def truth(arch: str, backend: Backend) -> Tensor:
    """|A * dL_t/dA| by one backward pass for each token, ``layer head query key``."""
    return _hooked_truth(arch) if backend == "hooked" else _transformers_truth(arch)


def _hooked_truth(arch: str) -> Tensor:
    """By TransformerLens' own hooks, its mask replaced."""
    model = from_transformers(
        windowed_transformers(arch), tiny_tokenizer(), backend="hooked", name=f"tiny-{arch}"
    )

    def masked(window: int | None) -> Any:
        def mask(scores: Tensor, *_args: Any, **_options: Any) -> Tensor:
            n = scores.shape[-1]
            hidden = torch.tensor([[not sees(t, k, window) for k in range(n)] for t in range(n)])
            return scores.masked_fill(hidden, -torch.inf)

        return mask

    for block, window in zip(model.blocks, WINDOWS[arch], strict=True):
        block.attn.apply_causal_mask = masked(window)
    return one_backward_per_token(model, windowed_trace().tokens, NextToken())


def _transformers_truth(arch: str) -> Tensor:
    """With transformers alone, by attention written out above."""
    model, tokens = windowed_transformers(arch), windowed_trace().tokens
    weights: list[Tensor] = []
    AttentionInterface.register("written_out", written_out(weights, WINDOWS[arch]))
    AttentionMaskInterface.register("written_out", lambda *_args, **_options: None)
    model.set_attn_implementation("written_out")
    logits = model(tokens[None], use_cache=False).logits[0].double()
    rows = []
    for query in range(len(tokens) - 1):
        loss = torch.nn.functional.cross_entropy(logits[query], tokens[query + 1])
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        pairs = zip(weights, gradients, strict=True)
        rows.append(torch.stack([(a * g).abs()[0, :, query].detach() for a, g in pairs]))
    rows.append(torch.zeros_like(rows[0]))
    return torch.stack(rows, dim=2)


def pooled(influence: Tensor, window: int | None, pool: str, rows: str = "query") -> Tensor:
    """Mean over pairs of one head's token map, pair by pair; 0 where there is none."""
    ids = windowed_trace().step_ids.tolist()
    queries = range(len(ids) - 1)
    of_row = {t: ids[t] if rows == "query" else ids[t + 1] for t in queries}
    result = torch.zeros(len(LENGTHS), len(LENGTHS), dtype=torch.double)
    for i in range(len(LENGTHS)):
        for j in range(len(LENGTHS)):
            in_row = [t for t in queries if of_row[t] == i]
            in_column = [k for k, step in enumerate(ids) if step == j]
            pairs = [(t, k) for t in in_row for k in in_column if sees(t, k, window)]
            total = sum(float(influence[t, k]) for t, k in pairs)
            below = {
                "mean": len(pairs),
                "mass": len(in_row),
                "block_mean": len(in_row) * len(in_column),
                "sum": 1,
            }
            result[i, j] = total / max(below[pool], 1)
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_the_window_of_each_layer_is_that_of_its_real_mask(arch: str, backend: Backend) -> None:
    model = windowed_model(arch, backend)
    assert windows(model) == WINDOWS[arch]
    n = 3 * WINDOW
    _, cache_of = model.run_with_cache(random_tokens(n), return_type="logits")
    for layer, window in enumerate(windows(model)):
        pattern = cache_of[f"blocks.{layer}.attn.hook_pattern"][0, 0]
        assert torch.equal(pattern > 0, seen_keys(n, n, window))


@pytest.mark.parametrize("window", [1, 5, 4096])
def test_a_window_ends_where_that_of_transformers_ends(window: int) -> None:
    theirs = sliding_window_causal_mask_function(window)
    n_keys = window + 3
    seen = seen_keys(4, n_keys, window)
    for row, query in enumerate(range(n_keys - 4, n_keys)):
        keys = torch.arange(n_keys)
        expected = theirs(0, 0, torch.tensor(query), keys)
        assert torch.equal(seen[row], expected)
        assert int(seen[row].sum()) == min(window, query + 1)


def test_masks_of_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        seen_keys(2, 3, 0)
    with pytest.raises(ValueError, match="4 queries are more than the 3 keys"):
        seen_keys(4, 3, None)


@pytest.mark.parametrize("method", ["hooks", "streaming"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_maps_equal_one_backward_pass_per_token_under_a_mask_written_out(
    arch: str, backend: Backend, method: Any
) -> None:
    model, trace = windowed_model(arch, backend), windowed_trace()
    for pool in POOLS if arch == "gemma2" else ("mean",):
        sal = ss.step_saliency(model, trace, method=method, pool=pool, per_head=True)
        assert sal.windows == WINDOWS[arch]
        for layer, window in enumerate(WINDOWS[arch]):
            heads = truth(arch, backend)[layer]
            expected = torch.stack([pooled(influence, window, pool) for influence in heads])
            difference = (sal.maps[layer].double() - expected).abs().max()
            assert difference < 1e-5 * expected.max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_filed_under_targets_keep_the_window_of_their_position(backend: Backend) -> None:
    model, trace = windowed_model("mistral", backend), windowed_trace()
    sal = ss.step_saliency(model, trace, rows="target")
    for layer, of_heads in enumerate(truth("mistral", backend)):
        expected = pooled(of_heads.mean(0), WINDOW, "mean", "target")
        assert torch.allclose(sal.maps[layer].double(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kernel", ["naive", "chunked"])
@pytest.mark.parametrize("arch", ["mistral", "gpt_oss"])
def test_padding_moves_no_window(arch: str, kernel: Any, side: Any) -> None:
    model = windowed_model(arch, "bridge")
    long = windowed_trace()
    short = Trace(tokens=long.tokens[:12], steps=long.steps[:4])
    layouts = [step_layout(trace.step_ids) for trace in (long, short)]
    objective = NextToken()
    options = {"layers": range(N_LAYERS), "kernel": kernel}
    alone = [
        streaming_maps(model, [t], [objective], layouts=[layout], **options)[0]
        for t, layout in zip((long, short), layouts, strict=True)
    ]
    both = streaming_maps(
        model, [long, short], [objective] * 2, layouts=layouts, padding_side=side, **options
    )
    for one, other in zip(alone, both, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-15)


def uniform_model(window: int, n_ctx: int, backend: Backend) -> Any:
    """Queries and keys are zero: every head attends to what it sees alike."""
    model = tiny_transformers("mistral", n_layers=2, window=window, n_ctx=n_ctx).double()
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            torch.nn.init.zeros_(projection.weight)
    uniform = from_transformers(model, tiny_tokenizer(), backend=backend, name="uniform")
    accept(uniform, "live_attention")
    return uniform


def repeated_trace(n_tokens: int, n_steps: int) -> Trace:
    """One token over and over: no position differs from another. The question fills a window."""
    step = (n_tokens - 160) // n_steps
    lengths = [160, *[step] * (n_steps - 2), n_tokens - 160 - step * (n_steps - 2) - 30, 30]
    template = make_trace("Q" + "T" * (n_steps - 1) + "S", lengths)
    return Trace(tokens=torch.full((n_tokens,), 40), steps=template.steps)


@pytest.mark.parametrize(
    ("n_tokens", "backend"),
    [(n, backend) for n in (512, 3096) for backend in BACKENDS],
)
def test_a_uniform_head_has_no_lock_in_at_any_length(n_tokens: int, backend: Backend) -> None:
    model = uniform_model(128, n_tokens, backend)
    sal = ss.step_saliency(model, repeated_trace(n_tokens, 14), method="streaming")
    diagnosis = diagnose(sal)
    assert diagnosis.lock_in.abs().max() < 1e-6
    assert diagnosis.lock_in_normalised.abs().max() < 1e-6
    # counting the keys outside as pairs, the same map seems locked in
    blind = normalise(sal.maps * counts_within(sal, 128), sal.layout, "mean")
    assert diagnose(make_saliency(blind, sal.trace)).lock_in.min() > 0.1


def counts_within(sal: StepSaliency, window: int) -> Tensor:
    return sal.layout.pairs_within(window).double()


@pytest.fixture
def gemma(request: pytest.FixtureRequest) -> Any:
    """Windows of 20 keys, which do not act in the 16 tokens that are run both ways."""
    return tiny_model("gemma2", backend=request.param, n_layers=2, window=20)


def trace_of(n_tokens: int) -> Trace:
    template = make_trace("QTS", [4, n_tokens - 8, 4])
    return Trace(tokens=random_tokens(n_tokens)[0], steps=template.steps)


def move_window(model: Any, window: int) -> None:
    """Have the model's own mask end elsewhere than its attention is told."""
    if hasattr(model, "original_model"):
        model.original_model.config.sliding_window = window
        return
    attention = model.blocks[0].attn
    own = attention.apply_causal_mask

    def mask(scores: Tensor, *args: Any, **options: Any) -> Tensor:
        told, attention.cfg.window_size = attention.cfg.window_size, window
        try:
            return own(scores, *args, **options)
        finally:
            attention.cfg.window_size = told

    attention.apply_causal_mask = mask


@pytest.mark.parametrize("gemma", BACKENDS, indirect=True)
@pytest.mark.parametrize("window", [19, 21])
def test_a_mask_that_ends_elsewhere_is_found_beyond_the_window(gemma: Any, window: int) -> None:
    move_window(gemma, window)
    with pytest.raises(ValueError, match="fails windows"):
        ss.step_saliency(gemma, trace_of(40))
    accept(gemma, "windows")
    ss.step_saliency(gemma, trace_of(18), method="streaming")
    with pytest.raises(ValueError, match=f"layer 0 .* sees {min(window, 21)} .* and 20 by"):
        ss.step_saliency(gemma, trace_of(40), method="streaming")


@pytest.mark.parametrize("gemma", BACKENDS, indirect=True)
def test_masks_are_asked_once_and_only_beyond_the_window(
    gemma: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def count(model: Any, n_keys: int) -> Tensor:
        asked.append(n_keys)
        return last_rows(model, n_keys)

    monkeypatch.setattr("step_saliency.saliency.layerwise.choice.last_rows", count)
    for n_tokens in (20, 18, 21, 40):
        ss.step_saliency(gemma, trace_of(n_tokens), method="streaming")
    assert asked == [21]


@pytest.mark.parametrize("gemma", BACKENDS, indirect=True)
def test_the_reference_path_says_where_a_pattern_reaches_beyond_the_window(gemma: Any) -> None:
    def spread(pattern: Tensor, hook: Any) -> Tensor:
        seen = torch.ones_like(pattern).tril()
        return seen / seen.sum(-1, keepdim=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.step_saliency(gemma, trace_of(40), method="hooks")
    with (
        gemma.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", spread)]),
        pytest.warns(UserWarning, match="layer 0 attends to keys outside of the sliding window"),
    ):
        ss.step_saliency(gemma, trace_of(40), method="hooks")
