"""The public call: traces in, pooled maps out."""

from typing import Any

import pytest
import torch
from brute import one_backward_per_token
from maps import make_trace
from tiny import BACKENDS, random_tokens, tiny_model

import step_saliency as ss
from step_saliency.saliency.estimate import estimate
from step_saliency.saliency.objectives import LogOdds, NextToken
from step_saliency.saliency.pooling import normalise, step_layout, sum_tokens
from step_saliency.trace import Trace

LENGTHS = [1, 4, 3, 5, 2, 3]


def trace_of(regions: str = "_QTTTS", lengths: list[int] = LENGTHS, **fields: Any) -> Trace:
    trace = make_trace(regions, lengths, **fields)
    return Trace(random_tokens(sum(lengths))[0], trace.steps, **fields)


class Nameless(LogOdds):
    """An objective whose author forgot its name."""

    name = None  # type: ignore[assignment]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["gpt2-like", "qwen2", "neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_maps_equal_brute_force(arch: str, backend: str, dtype: torch.dtype) -> None:
    if (arch, backend) == ("neox", "hooked"):
        pytest.skip("built as a bridge only")
    model = tiny_model(arch, backend=backend, dtype=dtype)
    trace = trace_of()
    truth = one_backward_per_token(model, trace.tokens, NextToken())
    for rows in ("query", "target"):
        layout = step_layout(trace.step_ids, rows=rows)
        for pool in ("mean", "mass", "block_mean", "sum"):
            expected = normalise(sum_tokens(truth, layout), layout, pool)
            sal = ss.step_saliency(
                model, trace, method="hooks", pool=pool, rows=rows, per_head=True
            )
            tolerance = 1e-5 if dtype == torch.float32 else 1e-10
            assert (sal.maps - expected).abs().max() < tolerance * expected.max()
            merged = ss.step_saliency(model, trace, method="hooks", pool=pool, rows=rows)
            assert torch.allclose(merged.maps, sal.maps.mean(1))


def test_a_saved_trace_of_one_token_steps() -> None:
    """Steps of one token make the step map the token map."""
    model = tiny_model("llama")
    trace = trace_of("QTTS", [1, 1, 1, 1])
    sal = ss.step_saliency(model, trace, layers=[1])
    assert torch.allclose(sal.maps[0], ss.token_map(model, trace, layer=1))
    assert sal.maps[0, -1].tolist() == [0, 0, 0, 0]
    assert not sal.defined[-1].any()


def test_layers_are_named_and_ordered() -> None:
    model = tiny_model("qwen2")
    trace = trace_of()
    whole = ss.step_saliency(model, trace)
    some = ss.step_saliency(model, trace, layers=[-1, 0])
    assert some.layers == (2, 0)
    assert torch.equal(some.maps, whole.maps[[2, 0]])
    assert torch.equal(some.layer(2), whole.layer(2))
    with pytest.raises(ValueError, match="layer 1 was not computed"):
        some.layer(1)


def test_answer_defaults_to_the_summary() -> None:
    model = tiny_model("qwen2")
    trace = trace_of()
    default = ss.step_saliency(model, trace, objective="answer")
    given = ss.step_saliency(model, trace, objective="answer", answer=[15, 16, 17])
    assert torch.equal(default.maps, given.maps)
    one = ss.step_saliency(model, trace, objective=ss.AnswerLoss((5,)), pool="sum")
    assert (one.maps[:, 3:] == 0).all(), "what comes after an answer cannot drive it"
    assert (one.maps[:, 1, 0] > 0).all()


@pytest.mark.parametrize("objective", ["answer", "logit_diff"])
def test_the_first_token_of_a_trace_is_none_of_the_answer(objective: str) -> None:
    """Nothing predicts it."""
    model, trace = tiny_model("qwen2"), trace_of("STS", [3, 4, 2])
    default = ss.step_saliency(model, trace, objective=objective)
    given = ss.step_saliency(model, trace, objective=objective, answer=[1, 2, 7, 8])
    assert torch.equal(default.maps, given.maps)
    with pytest.raises(ValueError, match="none beyond its first token"):
        ss.step_saliency(model, trace_of("ST", [1, 4]), objective=objective)


def test_an_answer_is_of_one_trace() -> None:
    model, short, long = tiny_model("qwen2"), trace_of("_QTS", [1, 4, 3, 2]), trace_of()
    options: dict[str, Any] = {"objective": "answer", "pool": "sum"}
    with pytest.raises(ValueError, match=r"answer=\[8, 9\] gives positions in one trace, and 2"):
        ss.step_saliency(model, [short, long], answer=[8, 9], **options)
    (alone,) = ss.step_saliency(model, [short], answer=[8, 9], **options)
    both = ss.step_saliency(model, [short, long], **options)
    torch.testing.assert_close(both[0].maps, alone.maps)


def test_attention_needs_no_objective() -> None:
    """Neither a summary nor a gradient."""
    model, trace = tiny_model("qwen2"), trace_of("_QT", [1, 4, 3])
    plain = ss.token_map(model, trace, layer=1, quantity="attention")
    assert torch.allclose(plain.sum(-1), torch.ones(8))
    for objective in ("answer", lambda logits, tokens: logits.amax()):
        read = ss.token_map(model, trace, layer=1, quantity="attention", objective=objective)
        assert torch.equal(read, plain)
    with pytest.raises(ValueError, match="objective='loss' is unknown"):
        ss.token_map(model, trace, layer=1, quantity="attention", objective="loss")  # type: ignore[arg-type]


def test_attention_of_logits_that_are_not_finite_is_refused() -> None:
    model = tiny_model("qwen2")
    broken = ("blocks.2.hook_resid_post", lambda resid, hook: resid * float("nan"))
    with (
        model.hooks(fwd_hooks=[broken]),
        pytest.raises(ValueError, match="logits are not finite from position 0"),
    ):
        ss.token_map(model, trace_of(), layer=0, quantity="attention")


def test_a_token_map_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, trace = tiny_model("qwen2"), trace_of()
    needed = estimate(model, len(trace), layers=[2]).hooks.peak_bytes
    monkeypatch.setattr("step_saliency.saliency.estimate.free_bytes", lambda device: needed)
    ss.token_map(model, trace, layer=-1)
    with pytest.raises(ValueError, match=r"18 tokens does not fit into .* free"):
        ss.token_map(model, trace, layer=0)
    ss.token_map(model, trace, layer=0, quantity="attention")


def test_objectives_have_names_in_the_result() -> None:
    model = tiny_model("qwen2")
    trace = trace_of()

    def peak(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return logits.amax()

    assert ss.step_saliency(model, trace, objective=peak).objective == "peak"
    sal = ss.step_saliency(model, trace, objective="logit_diff", answer_tokens=(30, 40))
    assert sal.objective == "logit_diff"
    assert (sal.maps[:, 5] == 0).all(), "row t after the answer's prediction says nothing"


def test_log_odds_is_the_loss_row_over_the_chance_of_being_wrong() -> None:
    """d(log-odds) = d(loss) / (1 - p), row by row."""
    model = tiny_model("qwen2", dtype=torch.float64)
    trace = trace_of()
    loss = ss.token_map(model, trace, layer=1)
    odds = ss.token_map(model, trace, layer=1, objective="log_odds")
    log_p = model(trace.tokens.unsqueeze(0), return_type="logits")[0].log_softmax(-1)
    p = log_p[:-1].gather(-1, trace.tokens[1:, None]).exp()
    assert torch.allclose(odds[:-1] * (1 - p), loss[:-1], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "loss"}, "objective='loss' is unknown"),
        ({"pool": "max"}, "pool='max' is unknown"),
        ({"rows": "key"}, "rows='key' is unknown"),
        ({"method": "fast"}, "method='fast' is unknown"),
        ({"layers": [3]}, "layers 0 to 2"),
        ({"layers": []}, r"layers=\[\] names no layer; the model has layers 0 to 2"),
        ({"keep": "most"}, "keep='most' is unknown"),
        ({"method": "streaming", "keep": "most"}, "keep='most' is unknown"),
        ({"objective": ss.LogitDiff(3, 4), "rows": "target"}, "does not have"),
        ({"objective": ss.LogitDiff(320)}, "token 320 of .* outside the model's vocabulary of 320"),
        ({"objective": ss.LogitDiff(3, 320)}, "token 320 of .* outside"),
        ({"layers": [0, -3]}, "twice"),
        ({"objective": "answer", "answer": [0]}, "from 1 on"),
        ({"objective": "answer", "answer": [18]}, "beyond the trace"),
        ({"objective": lambda logits, tokens: 1.0}, "a scalar tensor"),
        ({"objective": lambda logits, tokens: logits}, "a scalar tensor"),
        ({"objective": NextToken}, r"NextToken is a class; give NextToken\(\), an object"),
        ({"objective": Nameless()}, r"objective=Nameless\(\) has no name for tables and files"),
        ({"method": "hooks", "keep": "heads"}, "keep='heads' is of the streaming path"),
        ({"method": "hooks", "keep": "most"}, "keep='most' is unknown"),
        ({"method": "hooks", "offload": False}, "offload=False is of the streaming path"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ss.step_saliency(tiny_model("qwen2"), trace_of(), **options)


def test_bad_traces() -> None:
    model = tiny_model("qwen2", n_ctx=16)
    with pytest.raises(ValueError, match=r"18 tokens and the model's context 16"):
        ss.step_saliency(model, trace_of())
    with pytest.raises(ValueError, match="one token"):
        ss.step_saliency(model, trace_of("Q", [1]))
    no_summary = trace_of("_QT", [1, 4, 3])
    with pytest.raises(ValueError, match="no summary"):
        ss.step_saliency(model, no_summary, objective="answer")
    foreign = Trace(torch.tensor([5, 10_000]), make_trace("QT", [1, 1]).steps)
    with pytest.raises(ValueError, match="another tokenizer"):
        ss.step_saliency(model, foreign)


def test_public_names() -> None:
    for name in ss.__all__:
        assert getattr(ss, name) is not None
    assert callable(ss.diagnose)

    assert callable(ss.diagnose), "importing the module must not shadow the function"
    assert callable(ss.generate)
    with pytest.raises(AttributeError, match="no attribute"):
        ss.no_such_name  # noqa: B018


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_logit_at_an_earlier_position_can_be_filed_under_its_target(backend: Any) -> None:
    model, trace = tiny_model(backend=backend), make_trace("_QTTTS")
    by_name = ss.step_saliency(model, trace, objective="logit_diff", answer=[8], rows="target")
    assert not by_name.last_row
    by_object = ss.step_saliency(
        model,
        trace,
        objective=ss.LogitDiff(int(trace.tokens[8]), position=7),
        rows="target",
    )
    torch.testing.assert_close(by_name.maps, by_object.maps)
    assert by_name.maps.any()
    at_last = ss.step_saliency(model, trace, objective=ss.LogitDiff(3, 4))
    assert at_last.last_row
    with pytest.raises(ValueError, match="the correct token is the wrong one too"):
        ss.LogitDiff(5, 5)
