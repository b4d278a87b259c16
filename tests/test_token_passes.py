"""Passes that are captured and replayed give the tokens of those that are run."""

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pandas as pd
import pytest
import torch
from nights import mostly_at_night
from replayed import ReplayedPiece
from tiny import ARCHS, BACKENDS, Arch, Backend, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from analyses.running.cost import counted
from step_saliency.decoding import loops
from step_saliency.decoding.token_passes import TokenPasses, padded_rows, refusal
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.tasks import make_problems

QUESTIONS = [problem.question for problem in make_problems(n=7, level="medium", seed=1)]
EXPERTS = ("gpt_oss",)
"""Their experts are chosen by numbers that Python asks for."""


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Context in which passes of single tokens are captured, by what stands for CUDA graphs."""

    @contextmanager
    def context() -> Iterator[type[ReplayedPiece]]:
        def passes(model: Any, session: Any) -> Any:
            return closing(TokenPasses(model, session, new_piece=ReplayedPiece))

        ReplayedPiece.replays = 0
        with monkeypatch.context() as patch:
            patch.setattr(loops, "_token_passes", passes)
            yield ReplayedPiece

    return context


def flows() -> dict[str, Edit | StepFlow | None]:
    bridge = OddsEqualBridge([0, 1], tau_max=0.4)
    return {
        "none": None,
        "stepflow": StepFlow(oeb=bridge, smi=StepMomentumInjection([1, 2], alpha=0.3)),
        "head outputs": StepMomentumInjection([0, 2], alpha=0.3, space="value"),
        "residuals": StepMomentumInjection(
            [0, 1], alpha=0.3, source="resid_post", space="residual"
        ),
        "scores": OddsEqualBridge([0, 2], tau_max=0.4, placebo="random"),
    }


def decoded(model: Any, flow: Any, **options: Any) -> tuple[list[list[int]], Effects]:
    effects = Effects()
    tokenizer = getattr(model, "tokenizer", None) or tiny_tokenizer()
    given = {"temperature": 0, "max_new_tokens": 40, "batch_size": 3, **options}
    traces = ss.generate(
        model, QUESTIONS, flow=flow, method="fast", tokenizer=tokenizer, effects=effects, **given
    )
    return [trace.tokens.tolist() for trace in traces], effects


@pytest.mark.parametrize("name", mostly_at_night(sorted(flows()), "none", "stepflow"))
def test_the_reasoner_writes_the_same_with_the_same_counters(name: str, replayed: Any) -> None:
    model = ss.load_model("reasoner", device="cpu")
    expected, counted = decoded(model, flows()[name], max_new_tokens=120)
    with replayed() as pieces:
        got, counters = decoded(model, flows()[name], max_new_tokens=120)
    assert got == expected
    assert pieces.replays > 100 * model.cfg.n_layers
    assert len(counted.to_frame()) or name == "none"
    pd.testing.assert_frame_equal(counters.to_frame(), counted.to_frame(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arch",
    mostly_at_night(sorted(set(ARCHS) - set(EXPERTS)), "qwen2", "gemma3", "gpt2-like"),
)
def test_every_architecture(arch: Arch, replayed: Any) -> None:
    """Grouped heads, windows, caps, rotary kinds, learned positions; batches with padding."""
    model = tiny_transformers(arch, dtype=torch.float64)
    for name in ("none", "stepflow"):
        expected, _ = decoded(model, flows()[name])
        with replayed() as pieces, warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*CUDA graphs")
            got, _ = decoded(model, flows()[name])
        assert got == expected
        assert pieces.replays


@pytest.mark.parametrize("backend", mostly_at_night(BACKENDS, BACKENDS[-1]))
def test_seeds_draw_the_same(backend: Backend, replayed: Any) -> None:
    model = ss.load_model("reasoner", device="cpu", backend=backend)
    options = {"temperature": 1.0, "seed": 3, "n": 2, "max_new_tokens": 60}
    expected, _ = decoded(model, flows()["stepflow"], **options)
    with replayed() as pieces:
        assert decoded(model, flows()["stepflow"], **options)[0] == expected
    assert pieces.replays


def test_what_cannot_be_captured_is_decoded_as_without_and_says_so(replayed: Any) -> None:
    model = tiny_transformers("gpt_oss", dtype=torch.float64)
    expected, counted = decoded(model, flows()["stepflow"])
    with replayed() as pieces, pytest.warns(UserWarning, match="without CUDA graphs, slower") as w:
        got, counters = decoded(model, flows()["stepflow"])
    assert got == expected
    assert not pieces.replays
    assert len([said for said in w if "CUDA graphs" in str(said.message)]) == 1
    assert counters.to_frame().equals(counted.to_frame())


def test_hooks_of_users_run_in_each_pass(replayed: Any) -> None:
    """As without: what they do is not captured once."""
    model = tiny_transformers("llama", dtype=torch.float64)
    calls: list[int] = []

    def hook(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(len(output))
        return output * (1 + len(calls) / 100)

    with_hook = model.model.layers[1].mlp.register_forward_hook(hook)
    expected, _ = decoded(model, None)
    heard = calls.copy()
    calls.clear()
    with replayed() as pieces, pytest.warns(UserWarning, match="layers.1.mlp run from Python"):
        assert decoded(model, None)[0] == expected
    with_hook.remove()
    assert calls == heard
    assert not pieces.replays


@pytest.mark.parametrize("backend", mostly_at_night(BACKENDS, BACKENDS[0]))
def test_passes_and_tokens_are_counted_alike(backend: Backend, replayed: Any) -> None:
    model = ss.load_model("reasoner", device="cpu", backend=backend)
    decoded(model, None)  # what is checked once in a process
    with counted(model.cfg.d_vocab) as without:
        decoded(model, flows()["stepflow"])
    with replayed() as pieces, counted(model.cfg.d_vocab) as with_pieces:
        decoded(model, flows()["stepflow"])
    assert pieces.replays
    assert with_pieces == without
    assert without.passes > 40


def test_refusals() -> None:
    model = tiny_transformers("llama")
    assert refusal(model) is None
    model.config.layer_types = ["chunked_attention"] * 3
    assert refusal(model) == "it has layers of kind chunked_attention"
    model.config.layer_types = None
    handle = model.model.norm.register_forward_hook(lambda *_: None)
    assert refusal(model) == "hooks at model.norm run from Python"
    handle.remove()
    model.config.attention_chunk_size = 8
    assert refusal(model) == "its layers attend to chunks"
    del model.config.attention_chunk_size
    model.lm_head.to("meta")
    assert refusal(model) == "it lies on cpu, meta"


def test_rows_are_rounded_up() -> None:
    sizes = {n: padded_rows(n) for n in (1, 2, 3, 4, 5, 8, 9, 33, 65)}
    assert sizes == {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 8: 8, 9: 16, 33: 40, 65: 96}
