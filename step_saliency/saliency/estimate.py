"""What a map will cost, before it is computed: memory and rough time of both paths.

Question: does a trace of T tokens fit, and how long will it take? With L layers, H heads, q = H *
d_head, kv = key-value heads * d_head, and s bytes a number, above the weights:

    streaming   L * T * d_model * s                                 inputs of the blocks
                + max(T * s * (3 d_model + max(6 d_mlp + 2.6 (q + kv), 10 (q + kv))),
                      four chunks of logits)                        one block's graph, or the loss
    hooks       (a L + b) * H * T^2 * s                             patterns and their gradients
                + L * T * s * (8 d_model + 5 d_mlp + 4 (q + kv)) + 16 * T * vocabulary

The factors were fitted to measured peaks (tests hold them to that); a is what the class of model
keeps of a pattern. Time is the number of operations over what a short matrix product on this
device reaches, and for the hooks path also its traffic in T^2 numbers over the bandwidth of a copy.

When it misleads: time is rough, within a factor of two on a machine with nothing else to do.
Experts are counted as if tokens were spread evenly over them. What others take of the memory
meanwhile is not known.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from step_saliency.models.memory import free_bytes
from step_saliency.saliency import streaming
from step_saliency.saliency.kernels.step_attention.chunked import DEFAULT_TILE, GPU_TILE
from step_saliency.saliency.layerwise import layerwise_model, refusal
from step_saliency.saliency.objectives import Custom, LogOdds, NextToken, Objective, ObjectiveName

PathName = Literal["hooks", "streaming"]
ObjectiveLike = ObjectiveName | Objective | Callable[..., Tensor]

SHORT = 256
"""Up to this many tokens ``method="auto"`` takes the reference path."""

_PATTERN_COPIES = {"HookedTransformer": (2.8, 3.0), "TransformerBridge": (1.5, 3.0)}
_PATTERN_PASSES = 40
ENOUGH_SECONDS = 0.5


@dataclass(frozen=True)
class PathEstimate:
    """Cost of one path.

    Attributes:
        name: ``"hooks"`` or ``"streaming"``.
        peak_bytes: Most memory held at a time above the weights.
        seconds: Rough time.
        longest: Most tokens that fit into the memory available.
        refusal: Why the path cannot take this model as it is now; None if it can.
    """

    name: PathName
    peak_bytes: int
    seconds: float
    longest: int
    refusal: str | None = None


@dataclass(frozen=True)
class Estimate:
    """Cost of a map by both paths.

    Attributes:
        n_tokens: Length of the trace.
        available_bytes: Memory that was taken to be free.
        device: Device that the memory is of.
        hooks: The reference path.
        streaming: The path in linear memory.
    """

    n_tokens: int
    available_bytes: int
    device: str
    hooks: PathEstimate
    streaming: PathEstimate

    def fits(self, path: PathName) -> bool:
        """Whether a path can run, and within the memory available."""
        chosen = self.hooks if path == "hooks" else self.streaming
        return chosen.refusal is None and self.n_tokens <= chosen.longest

    def __str__(self) -> str:
        head = f"{self.n_tokens:,} tokens, {_gigabytes(self.available_bytes)} free on {self.device}"
        return "\n".join([head, *(self._row(path) for path in (self.hooks, self.streaming))])

    def _row(self, path: PathEstimate) -> str:
        if path.refusal is not None:
            return f"  {path.name:<9}  {path.refusal}"
        verdict = "fits" if self.fits(path.name) else "does not fit"
        return (
            f"  {path.name:<9}  peak {_gigabytes(path.peak_bytes):>9}   roughly "
            f"{path.seconds:>7,.1f} s   {verdict} (up to {path.longest:,} tokens would)"
        )


@dataclass(frozen=True)
class ModelShape:
    """Sizes that the cost depends on; widths count numbers per token."""

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    query_width: int
    key_width: int
    vocab: int
    itemsize: int
    device: torch.device
    pattern_copies: tuple[float, float]

    @property
    def block_parameters(self) -> int:
        """Weights that a token meets in one block."""
        attention = 2 * self.d_model * (self.query_width + self.key_width)
        return attention + 3 * self.d_model * self.d_mlp


def estimate(
    model: nn.Module,
    n_tokens: int,
    *,
    objective: ObjectiveLike = "next_token",
    layers: Sequence[int] | None = None,
    offload: bool = False,
    available_bytes: int | None = None,
) -> Estimate:
    """Tell what mapping a trace would cost, without running the model.

    Args:
        model: HookedTransformer, TransformerBridge or a causal transformers model.
        n_tokens: Length of the trace.
        objective: As in `step_saliency`.
        layers: Layers to be mapped; all by default.
        offload: Whether the blocks' inputs go to main memory.
        available_bytes: Memory to fit into; by default what is free on the model's device.

    Returns:
        Peak memory above the weights, rough seconds and the largest length that fits, of both
        paths.

    Raises:
        ValueError: no tokens, or a model that neither path can take.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens={n_tokens}; a trace has at least one")
    shape = model_shape(model)
    work = _Work(shape, _is_local(objective), _needs_all_logits(objective), layers, offload)
    free = free_bytes(shape.device) if available_bytes is None else available_bytes
    speed, bandwidth = _measured_speed(shape)
    return Estimate(
        n_tokens=n_tokens,
        available_bytes=free,
        device=str(shape.device),
        hooks=PathEstimate(
            "hooks",
            work.hooks_bytes(n_tokens),
            work.hooks_seconds(n_tokens, speed, bandwidth),
            _longest(work.hooks_bytes, free),
            _hooks_refusal(model),
        ),
        streaming=PathEstimate(
            "streaming",
            work.streaming_bytes(n_tokens),
            work.streaming_seconds(n_tokens, speed),
            _longest(work.streaming_bytes, free),
            refusal(model),
        ),
    )


def choose_path(
    model: nn.Module,
    n_tokens: int,
    *,
    method: Literal["auto", "hooks", "streaming"] = "auto",
    objective: ObjectiveLike = "next_token",
    layers: Sequence[int] | None = None,
    available_bytes: int | None = None,
) -> PathName:
    """The path to take for one trace.

    ``"auto"`` takes hooks up to `SHORT` tokens and where streaming refuses the model (for instance
    because of hooks at attention scores), else streaming; and the other one if that alone fits.

    Args:
        model: The model.
        n_tokens: Length of the trace.
        method: ``"auto"``, or a path to insist on.
        objective: As in `step_saliency`.
        layers: Layers to be mapped; all by default.
        available_bytes: Memory to fit into; by default what is free on the model's device.

    Raises:
        ValueError: nothing that is allowed fits or takes the model.
    """
    shape = model_shape(model)
    work = _Work(shape, _is_local(objective), _needs_all_logits(objective), layers, offload=False)
    free = free_bytes(shape.device) if available_bytes is None else available_bytes
    needs = {
        "hooks": work.hooks_bytes(n_tokens),
        "streaming": work.streaming_bytes(n_tokens),
    }
    refusals = {"hooks": _hooks_refusal(model), "streaming": refusal(model)}
    order: list[PathName] = ["hooks", "streaming"] if n_tokens <= SHORT else ["streaming", "hooks"]
    allowed = order if method == "auto" else [path for path in order if path == method]
    for path in allowed:
        if refusals[path] is None and needs[path] <= free:
            return path
    if method != "auto" and refusals[method] is not None:
        raise ValueError(refusals[method])
    longest = {
        "hooks": _longest(work.hooks_bytes, free),
        "streaming": _longest(work.streaming_bytes, free),
    }
    told = "; ".join(
        f"method={path!r} {_need(needs[path], longest[path], refusals[path])}" for path in needs
    )
    raise ValueError(
        f"a trace of {n_tokens:,} tokens does not fit into the {_gigabytes(free)} free on "
        f"{shape.device}: {told}. Map fewer layers at a time, or load the model in half precision"
    )


def _need(n_bytes: int, longest: int, refused: str | None) -> str:
    if refused is not None:
        return f"is not possible ({refused})"
    return f"needs {_gigabytes(n_bytes)} and would fit up to {longest:,} tokens"


@dataclass(frozen=True)
class _Work:
    """Bytes and seconds of both paths as functions of the length."""

    shape: ModelShape
    local: bool
    all_logits: bool
    layers: Sequence[int] | None
    offload: bool

    @property
    def lowest(self) -> int:
        if self.layers is None:
            return 0
        return min(layer % self.shape.n_layers for layer in self.layers)

    @property
    def differentiated(self) -> int:
        return self.shape.n_layers - self.lowest

    def streaming_bytes(self, n_tokens: int) -> int:
        shape = self.shape
        kept = 1 if self.offload else shape.n_layers
        inputs = (kept + 2) * n_tokens * shape.d_model * shape.itemsize
        widths = shape.query_width + shape.key_width
        mlp = 6 * shape.d_mlp + 2.6 * widths
        triton = shape.device.type == "cuda" and shape.itemsize == 2
        attention = 10 * widths * (1 if triton else 4 / shape.itemsize)
        graph = n_tokens * shape.itemsize * (3 * shape.d_model + max(mlp, attention))
        tile = DEFAULT_TILE if shape.device.type == "cpu" else GPU_TILE
        buffers = 0 if triton else 3 * tile.rows * tile.keys * 4
        return int(inputs + max(graph + buffers, self._logit_bytes(n_tokens)))

    def _logit_bytes(self, n_tokens: int) -> int:
        whole = 4 * n_tokens * self.shape.vocab
        limits = streaming.LOGIT_BYTES
        limit = limits.get(self.shape.device.type, limits["cuda"])
        return 4 * (whole if self.all_logits else min(whole, limit))

    def hooks_bytes(self, n_tokens: int) -> int:
        shape = self.shape
        per_layer, once = shape.pattern_copies
        layers = self.differentiated
        patterns = (per_layer * layers + once) * shape.n_heads * n_tokens**2 * shape.itemsize
        widths = shape.query_width + shape.key_width
        graph = layers * n_tokens * (8 * shape.d_model + 5 * shape.d_mlp + 4 * widths)
        return int(patterns + graph * shape.itemsize + 4 * 4 * n_tokens * shape.vocab)

    def streaming_seconds(self, n_tokens: int, speed: float) -> float:
        # products of one pass: forward 2 T^2 q over half the square; backward 3, or 5 if not local
        square = n_tokens**2 * self.shape.query_width
        attention = 2 * self.shape.n_layers + (5 if self.local else 7) * self.differentiated
        blocks = self.shape.n_layers + 2 * self.differentiated
        linear = 2 * n_tokens * self.shape.block_parameters * blocks
        return (linear + self._head_work(n_tokens) + attention * square) / speed

    def hooks_seconds(self, n_tokens: int, speed: float, bandwidth: float) -> float:
        square = 2 * n_tokens**2 * self.shape.query_width
        attention = 2 * self.shape.n_layers + 4 * self.differentiated
        blocks = self.shape.n_layers + self.differentiated
        linear = 2 * n_tokens * self.shape.block_parameters * blocks
        entries = self.shape.n_layers * self.shape.n_heads * n_tokens**2
        traffic = _PATTERN_PASSES * entries * self.shape.itemsize / bandwidth
        return (linear + self._head_work(n_tokens) + attention * square) / speed + traffic

    def _head_work(self, n_tokens: int) -> int:
        return 4 * n_tokens * self.shape.d_model * self.shape.vocab


def model_shape(model: nn.Module) -> ModelShape:
    """Read off a model what its cost depends on.

    Raises:
        ValueError: not a model that a path can take.
    """
    layerwise = layerwise_model(model)
    classes = {cls.__name__ for cls in type(model).__mro__}
    first = next(p for p in model.parameters() if p.is_floating_point())
    common: dict[str, Any] = {
        "itemsize": first.element_size(),
        "device": layerwise.device,
        "pattern_copies": next(
            (copies for name, copies in _PATTERN_COPIES.items() if name in classes), (1.5, 3.0)
        ),
    }
    config: Any = getattr(model, "cfg", None)
    if "HookedTransformer" in classes:
        return ModelShape(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            d_model=config.d_model,
            d_mlp=(config.d_mlp or 0) * (config.experts_per_token or 1),
            query_width=config.n_heads * config.d_head,
            key_width=(config.n_key_value_heads or config.n_heads) * config.d_head,
            vocab=config.d_vocab,
            **common,
        )
    inner: Any = getattr(model, "original_model", model)
    widths: dict[str, Any] = _transformers_widths(inner.config.get_text_config(decoder=True))
    return ModelShape(**widths, **common)


def _transformers_widths(config: Any) -> dict[str, int]:
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    experts = getattr(config, "num_experts_per_tok", None) or 1
    width = getattr(config, "moe_intermediate_size", None) or getattr(
        config, "intermediate_size", None
    )
    return {
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_model": config.hidden_size,
        "d_mlp": (width or 4 * config.hidden_size) * experts,
        "query_width": config.num_attention_heads * d_head,
        "key_width": kv_heads * d_head,
        "vocab": config.vocab_size,
    }


def _measured_speed(shape: ModelShape) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second of a copy."""
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[shape.itemsize]
    rows, widest = (64, 1024) if shape.device.type == "cpu" else (4096, 4096)
    width = min(shape.d_model, widest)
    x = torch.ones(rows, width, dtype=dtype, device=shape.device)
    w = torch.ones(width, 2 * width, dtype=dtype, device=shape.device)
    product = _shortest(lambda: x @ w, shape.device)
    large = torch.ones(2**22, dtype=dtype, device=shape.device)
    copy = _shortest(lambda: large + 1, shape.device)
    return 2 * x.numel() * 2 * width / product, 2 * large.nbytes / copy


def _shortest(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of the fastest of a few runs, or of one that is long enough to be exact."""
    best = float("inf")
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        if best > ENOUGH_SECONDS:
            break
    return best


def _longest(n_bytes: Callable[[int], int], free: int) -> int:
    """Largest length whose bytes fit, by bisection."""
    low, high = 0, 1
    while n_bytes(high) <= free and high < 2**30:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if n_bytes(middle) <= free else (low, middle)
    return low


def _is_local(objective: ObjectiveLike) -> bool:
    if isinstance(objective, Objective):
        return objective.local
    return objective in (NextToken.name, LogOdds.name)


def _needs_all_logits(objective: ObjectiveLike) -> bool:
    return isinstance(objective, Custom) or (
        callable(objective) and not isinstance(objective, Objective)
    )


def _hooks_refusal(model: nn.Module) -> str | None:
    if hasattr(model, "hook_dict"):
        return None
    return "a plain transformers model has no hook points; use method='streaming'"


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB"
