"""Step attention: the naive form against autograd, the fast forms against the naive one."""

import inspect
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

from step_saliency.saliency.kernels.step_attention import chunked, load_kernel, naive  # noqa: E402
from step_saliency.saliency.kernels.step_attention.types import (  # noqa: E402
    AttentionGradients,
    AttentionSpec,
    StepIndex,
    Tile,
)

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

PLAIN = AttentionSpec(0.3)


@dataclass(frozen=True)
class Case:
    n_pos: int
    heads: int = 4
    kv_heads: int = 2
    d_head: int = 8
    d_value: int = 8
    batch: int = 1
    spec: AttentionSpec = PLAIN
    padded: bool = False
    sinks: bool = False
    n_steps: int = 5
    per_head: bool = False
    local: bool = True
    dtype: torch.dtype = torch.float64

    @property
    def spans(self) -> tuple[tuple[int, int], ...] | None:
        if not self.padded:
            return None
        third = self.n_pos // 3
        return ((0, self.n_pos), (third, self.n_pos), (0, self.n_pos - third))[: self.batch]

    def tensors(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """q k v dz, laid out as models lay them out; NaN at padding."""
        generator = torch.Generator().manual_seed(seed)

        def draw(heads: int, d: int) -> torch.Tensor:
            x = torch.randn(self.batch, self.n_pos, heads, d, generator=generator)
            for sequence, (start, stop) in enumerate(self.spans or ()):
                x[sequence, :start] = x[sequence, stop:] = torch.nan
            return x.transpose(1, 2).to(self.dtype)

        return {
            "q": draw(self.heads, self.d_head),
            "k": draw(self.kv_heads, self.d_head),
            "v": draw(self.kv_heads, self.d_value),
            "dz": draw(self.heads, self.d_value),
        }

    def sink_scores(self) -> torch.Tensor | None:
        if not self.sinks:
            return None
        return torch.linspace(-1, 2, self.heads, dtype=self.dtype)

    def steps(self, seed: int = 0) -> StepIndex:
        """Rows and columns in steps of any order and length; some count nowhere."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, self.n_pos)
        rows, keys = (torch.randint(-1, self.n_steps, shape, generator=generator) for _ in range(2))
        rows[:, 0] = keys[:, 0] = 0
        return StepIndex(rows, keys, self.n_steps)


def run(
    kernel: ModuleType, case: Case, *, steps: StepIndex | None = None, tile: Tile | None = None
) -> tuple[torch.Tensor, AttentionGradients]:
    x = {name: tensor.to(DEVICE) for name, tensor in case.tensors().items()}
    sinks = case.sink_scores()
    sinks = None if sinks is None else sinks.to(DEVICE)
    z, lse = kernel.attention(
        x["q"], x["k"], x["v"], case.spec, spans=case.spans, sinks=sinks, tile=tile
    )
    gradients = kernel.pool_influence(
        x["q"], x["k"], x["v"], z, lse, x["dz"], case.spec,
        spans=case.spans, steps=steps or case.steps(), per_head=case.per_head, local=case.local,
        tile=tile,
    )  # fmt: skip
    return z, gradients


def assert_equal_to_naive(
    kernel: ModuleType, case: Case, tolerance: float, tile: Tile | None = None
) -> None:
    z, got = run(kernel, case, tile=tile)
    z_naive, want = run(naive, case)
    torch.testing.assert_close(z, z_naive, rtol=tolerance, atol=tolerance)
    for name in ("dq", "dk", "dv", "totals"):
        one, other = getattr(got, name), getattr(want, name)
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1, float(other.max())))


SPECS = {
    "plain": PLAIN,
    "capped": AttentionSpec(0.3, softcap=1.5),
    "windowed": AttentionSpec(0.3, window=6),
    "capped and windowed": AttentionSpec(0.3, softcap=1.5, window=40),
}
LENGTHS = (1, 2, 63, 257, 1000)


def eager(case: Case, x: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as a model writes it down, and its pattern."""
    group = case.heads // case.kv_heads
    k, v = (x[name].repeat_interleave(group, 1) for name in ("k", "v"))
    scores = x["q"] @ k.mT * case.spec.scale
    if case.spec.softcap is not None:
        scores = case.spec.softcap * torch.tanh(scores / case.spec.softcap)
    ones = torch.ones(case.n_pos, case.n_pos, dtype=torch.bool)
    seen = ones.tril() & ones.triu(1 - (case.spec.window or case.n_pos))
    scores = scores.masked_fill(~seen, -torch.inf)
    sinks = case.sink_scores()
    if sinks is not None:
        column = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], -1)
    pattern = scores.softmax(-1)[..., : case.n_pos]
    return pattern @ v, pattern


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_naive_is_what_autograd_makes_of_eager_attention(spec: AttentionSpec, sinks: bool) -> None:
    case = Case(23, spec=spec, sinks=sinks, local=False, per_head=True, batch=2)
    x = {name: tensor.requires_grad_() for name, tensor in case.tensors().items()}
    z_eager, pattern = eager(case, x)
    pattern.retain_grad()
    (z_eager * x["dz"].detach()).sum().backward()
    token_steps = torch.arange(case.n_pos).expand(2, -1)
    z, got = run(naive, case, steps=StepIndex(token_steps, token_steps, case.n_pos))
    assert pattern.grad is not None
    torch.testing.assert_close(z.cpu(), z_eager.detach())
    for name in ("q", "k", "v"):
        torch.testing.assert_close(getattr(got, f"d{name}").cpu(), x[name].grad)
    assert got.totals is not None
    torch.testing.assert_close(got.totals.cpu(), (pattern * pattern.grad).abs().detach())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_local_gradients_are_those_of_one_backward_pass_per_query(spec: AttentionSpec) -> None:
    case = Case(11, spec=spec, sinks=True)
    x = {name: tensor.requires_grad_() for name, tensor in case.tensors().items()}
    z_eager, _ = eager(case, x)
    want = {name: torch.zeros_like(x[name]) for name in ("q", "k", "v")}
    for t in range(case.n_pos):
        loss = (z_eager[:, :, t] * x["dz"][:, :, t].detach()).sum()
        gradients = torch.autograd.grad(loss, [x[n] for n in want], retain_graph=True)
        for name, gradient in zip(want, gradients, strict=True):
            want[name][:, :, t] = gradient[:, :, t]
    _, got = run(naive, case)
    for name in want:
        torch.testing.assert_close(getattr(got, f"d{name}").cpu(), want[name])


@pytest.mark.parametrize("n_pos", LENGTHS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_chunked_equals_naive(n_pos: int, spec: AttentionSpec) -> None:
    odd = n_pos % 2 == 1
    case = Case(
        n_pos,
        spec=spec,
        heads=6 if odd else 3,
        kv_heads=2 if odd else 3,
        d_value=5 if odd else 8,
        sinks=odd,
        local=odd,
        per_head=not odd,
    )
    assert_equal_to_naive(chunked, case, 1e-12)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_chunked_never_reads_padding(spec: AttentionSpec, local: bool) -> None:
    case = Case(63, batch=3, spec=spec, padded=True, sinks=True, local=local, per_head=True)
    assert case.tensors()["k"].isnan().any()
    assert_equal_to_naive(chunked, case, 1e-12)


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(7, 5), Tile(16, 1000), Tile(4096, 3)], ids=str)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_tiles_of_any_size_give_the_same(tile: Tile, spec: AttentionSpec) -> None:
    case = Case(45, heads=6, spec=spec, local=False)
    assert_equal_to_naive(chunked, case, 1e-12, tile)


@pytest.mark.parametrize("n_steps", [1, 2, 200])
def test_any_layout_of_steps(n_steps: int) -> None:
    case = Case(130, n_steps=n_steps, per_head=n_steps == 2)
    assert_equal_to_naive(chunked, case, 1e-12, Tile(24, 50))


def test_totals_add_up_to_the_influence_of_all_counted_pairs() -> None:
    case = Case(40)
    one_step = torch.zeros(1, 40, dtype=torch.long)
    _, whole = run(chunked, case, steps=StepIndex(one_step, one_step, 1))
    halves = (torch.arange(40) >= 17).long().expand(1, -1)
    _, split = run(chunked, case, steps=StepIndex(halves, halves, 2))
    assert whole.totals is not None
    assert split.totals is not None
    torch.testing.assert_close(split.totals.sum((-1, -2)), whole.totals[..., 0, 0])
    assert (split.totals[0, 0].triu(1) == 0).all()


@pytest.mark.parametrize("per_head", [True, False])
def test_heads_are_summed_unless_kept_apart(per_head: bool) -> None:
    case = Case(30, per_head=True)
    _, apart = run(chunked, case)
    _, together = run(chunked, replace(case, per_head=per_head))
    assert apart.totals is not None
    assert together.totals is not None
    torch.testing.assert_close(together.totals.sum(1), apart.totals.sum(1))
    assert together.totals.shape[1] == (4 if per_head else 1)


def test_float32_is_within_1e_5_of_float64() -> None:
    case = Case(257, spec=AttentionSpec(0.3, softcap=1.5, window=100), dtype=torch.float32)
    _, got = run(chunked, case)
    _, want = run(naive, replace(case, dtype=torch.float64))
    assert got.totals is not None
    assert want.totals is not None
    assert got.totals.dtype == torch.float32
    assert (got.totals - want.totals).abs().max() < 1e-5 * want.totals.max()


def half_precision_errors(kernel: ModuleType, case: Case, tile: Tile | None) -> None:
    """Assert errors at most twice those of plain eager attention in the same type."""
    x = {name: tensor.requires_grad_() for name, tensor in case.tensors().items()}
    z_eager, pattern = eager(case, x)
    pattern.retain_grad()
    (z_eager * x["dz"].detach()).sum().backward()
    assert pattern.grad is not None
    steps = case.steps()
    influence = (pattern.float() * pattern.grad.float()).abs()
    totals_eager = naive._sum_steps(influence, steps, case.per_head)
    z_got, got = run(kernel, case, steps=steps, tile=tile)
    # the same inputs, exactly, in float64
    exact = {name: tensor.detach().double() for name, tensor in x.items()}
    spec, local = case.spec, case.local
    z_true, lse = naive.attention(exact["q"], exact["k"], exact["v"], spec)
    true = naive.pool_influence(
        exact["q"], exact["k"], exact["v"], z_true, lse, exact["dz"], spec,
        steps=steps, per_head=case.per_head, local=local,
    )  # fmt: skip
    assert x["q"].grad is not None
    triples = {
        "z": (z_got, z_eager, z_true),
        "totals": (got.totals, totals_eager, true.totals),
        "dq": (got.dq, x["q"].grad, true.dq),
    }
    for name, (ours, plain, truth) in triples.items():
        assert ours is not None
        assert truth is not None
        error = (ours.cpu().double() - truth).norm()
        allowed = 2 * (plain.double() - truth).norm()
        assert error <= allowed, f"{name}: {error:.3g} > {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype) -> None:
    half_precision_errors(chunked, Case(257, d_head=32, d_value=32, dtype=dtype), None)


HALF_TYPES = [
    torch.float16,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            DEVICE == "cpu", reason="Triton's interpreter has no bfloat16 dot"
        ),
    ),
]


@needs_triton
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_triton_errs_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype) -> None:
    case = Case(97, heads=2, kv_heads=1, d_head=32, d_value=32, dtype=dtype)
    half_precision_errors(triton_kernel(), case, Tile(64, 64) if DEVICE == "cpu" else None)


def triton_kernel() -> ModuleType:
    return load_kernel("triton", torch.device(DEVICE), torch.float32)


TRITON_CASES = {
    "one position": (Case(1, heads=2, kv_heads=1, sinks=True, local=False), Tile(16, 16)),
    "two": (Case(2, heads=2, kv_heads=1, spec=SPECS["capped"]), Tile(16, 16)),
    "odd, padded, sinks": (
        Case(63, batch=3, heads=2, kv_heads=1, padded=True, sinks=True, local=False),
        Tile(32, 16),
    ),
    "window and cap": (
        Case(63, heads=2, kv_heads=2, spec=SPECS["capped and windowed"], local=False),
        Tile(16, 32),
    ),
    "steps beyond one window of them": (
        Case(63, heads=2, kv_heads=1, n_steps=40, per_head=True, d_head=12, d_value=5),
        Tile(32, 32),
    ),
    "many blocks": (
        Case(257, heads=2, kv_heads=1, spec=AttentionSpec(0.3, window=100), local=False),
        Tile(64, 64),
    ),
    "long": (Case(1000, heads=1, kv_heads=1), Tile(256, 256)),
}


@needs_triton
@pytest.mark.parametrize(("case", "tile"), TRITON_CASES.values(), ids=TRITON_CASES)
def test_triton_equals_naive(case: Case, tile: Tile) -> None:
    case = replace(case, dtype=torch.float32)
    # tiles that are quick to interpret can be too large for a device
    assert_equal_to_naive(triton_kernel(), case, 2e-6, tile if DEVICE == "cpu" else None)


@needs_triton
def test_triton_without_steps_leaves_gradients_alone() -> None:
    case = replace(TRITON_CASES["two"][0], dtype=torch.float32)
    x = {name: tensor.to(DEVICE) for name, tensor in case.tensors().items()}
    kernel = triton_kernel()
    z, lse = kernel.attention(x["q"], x["k"], x["v"], case.spec, tile=Tile(16, 16))
    got = kernel.pool_influence(
        x["q"], x["k"], x["v"], z, lse, x["dz"], case.spec, tile=Tile(16, 16)
    )
    _, want = run(naive, case)
    assert got.totals is None
    torch.testing.assert_close(got.dq, want.dq)


@needs_triton
@pytest.mark.parametrize("function", ["attention", "pool_influence"])
def test_all_forms_have_one_signature(function: str) -> None:
    kernels = (naive, chunked, triton_kernel())
    signatures = {str(inspect.signature(getattr(kernel, function))) for kernel in kernels}
    assert len(signatures) == 1


def test_auto_takes_triton_only_for_half_precision_on_cuda() -> None:
    assert load_kernel("auto", torch.device("cpu"), torch.bfloat16) is chunked
    assert load_kernel("auto", torch.device("cuda"), torch.float32) is chunked
    if find_spec("triton") is not None:
        assert load_kernel("auto", torch.device("cuda"), torch.bfloat16) is triton_kernel()
    wide = load_kernel("auto", torch.device("cuda"), torch.bfloat16, widest=512)
    assert wide is chunked, "Triton takes heads of up to 256 dimensions"


BAD_INPUTS = {
    "heads that do not divide": (Case(4, heads=3, kv_heads=2), {}, "3 heads do not divide into 2"),
    "a span beyond the end": (Case(4), {"spans": ((0, 5),)}, "span 0..5 does not lie within 4"),
    "an empty span": (Case(4), {"spans": ((2, 2),)}, "span 2..2"),
    "too few spans": (Case(4, batch=2), {"spans": ((0, 4),)}, "1 spans for a batch of 2"),
}


@pytest.mark.parametrize("kernel", [naive, chunked], ids=["naive", "chunked"])
@pytest.mark.parametrize(("case", "extra", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_refused(
    kernel: ModuleType, case: Case, extra: dict[str, object], message: str
) -> None:
    x = case.tensors()
    with pytest.raises(ValueError, match=message):
        kernel.attention(x["q"], x["k"], x["v"], case.spec, **extra)


@needs_triton
def test_triton_refuses_what_it_cannot_take() -> None:
    kernel = triton_kernel()
    x = Case(4).tensors()
    with pytest.raises(ValueError, match="float64"):
        kernel.attention(x["q"], x["k"], x["v"], AttentionSpec(1.0))
    x = Case(4, dtype=torch.float32).tensors()
    with pytest.raises(ValueError, match="powers of two"):
        kernel.attention(x["q"], x["k"], x["v"], AttentionSpec(1.0), tile=Tile(24, 16))


def test_specs_and_tiles_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="window=0"):
        AttentionSpec(1.0, window=0)
    with pytest.raises(ValueError, match="softcap=-1"):
        AttentionSpec(1.0, softcap=-1.0)
    with pytest.raises(ValueError, match="0 x 8"):
        Tile(0, 8)
