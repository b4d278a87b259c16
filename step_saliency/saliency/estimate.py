"""What a map will cost, before it is computed: memory and rough time of both paths.

Question: does a trace of T tokens fit, how long will it take, and which path is taken? Bytes and
operations are those of `cost.work`; time is the number of operations over what a short matrix
product on this device reaches, and for the hooks path also its traffic in T^2 numbers over the
bandwidth of a copy.

When it misleads: time is rough, within a factor of two on a machine with nothing else to do.
Experts are counted as if tokens were spread evenly over them. What others take of the memory
meanwhile is not known.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from step_saliency.models.doctor import require_capabilities
from step_saliency.models.facts import stated_context, value_clip
from step_saliency.models.memory import free_bytes
from step_saliency.options import KEEPS, Keep, Method, Offload, check_option
from step_saliency.saliency.cost.shape import model_shape
from step_saliency.saliency.cost.speed import measured_speed
from step_saliency.saliency.cost.work import ObjectiveLike, Work, longest
from step_saliency.saliency.given import layer_numbers, whole_numbers
from step_saliency.saliency.layerwise import refusal
from step_saliency.saliency.objectives import check_objective

PathName = Literal["hooks", "streaming"]

SHORT = 256
"""Up to this many tokens ``method="auto"`` takes the reference path."""

SPARE = 1 / 4
"""Share of the free memory that streaming takes to be faster."""


@dataclass(frozen=True)
class Path:
    """A way to compute maps.

    Attributes:
        name: ``"hooks"`` or ``"streaming"``.
        offload: Whether what streaming saves between layers goes to main memory.
        keep: What streaming keeps of each block; ``"auto"`` until it is chosen.
    """

    name: PathName
    offload: bool = False
    keep: Keep = "inputs"


@dataclass(frozen=True)
class PathEstimate:
    """Cost of one path.

    Attributes:
        name: ``"hooks"`` or ``"streaming"``.
        peak_bytes: Most memory held at a time above the weights.
        seconds: Rough time.
        longest: Most tokens of a single trace that fit into the memory available.
        refusal: Why the path cannot take this model as it is now; None if it can.
        offload: Whether what is saved between layers goes to main memory, as these numbers assume.
        kept_bytes: Memory beyond ``peak_bytes`` that is taken to be faster, where it fits and is
            no more than `SPARE` of what is free; ``seconds`` assume it. What ``keep`` asks for is
            part of ``peak_bytes`` instead.
    """

    name: PathName
    peak_bytes: int
    seconds: float
    longest: int
    refusal: str | None = None
    offload: bool = False
    kept_bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """Cost of a map by both paths.

    Attributes:
        n_tokens: Length of the trace, or of the longest of several.
        available_bytes: Memory that was taken to be free.
        device: Device that the memory is of.
        hooks: The reference path.
        streaming: The path in linear memory.
        n_traces: Number of traces.
        context: Most tokens that the model reads; None if it does not say.
    """

    n_tokens: int
    available_bytes: int
    device: str
    hooks: PathEstimate
    streaming: PathEstimate
    n_traces: int = 1
    context: int | None = None

    def fits(self, path: PathName) -> bool:
        """Whether a path can run, and within the memory available."""
        cost = self.hooks if path == "hooks" else self.streaming
        return cost.refusal is None and cost.peak_bytes <= self.available_bytes

    def __str__(self) -> str:
        batch = f"{self.n_traces:,} traces of up to " if self.n_traces > 1 else ""
        free = f"{_gigabytes(self.available_bytes)} free on {self.device}"
        head = f"{batch}{self.n_tokens:,} tokens, {free}"
        return "\n".join([head, *(self._row(path) for path in (self.hooks, self.streaming))])

    def _row(self, path: PathEstimate) -> str:
        if path.refusal is not None:
            return f"  {path.name:<9}  {path.refusal}"
        verdict = "fits" if self.fits(path.name) else "does not fit"
        offload = " with offload=True" if path.offload else ""
        kept = f", with {_gigabytes(path.kept_bytes)} more for speed" if path.kept_bytes else ""
        longest = f"up to {path.longest:,} tokens would"
        if self.context is not None and self.n_tokens <= self.context < path.longest:
            longest = f"as all of the context of {self.context:,} tokens would"
        return (
            f"  {path.name:<9}  peak {_gigabytes(path.peak_bytes):>9}   roughly "
            f"{path.seconds:>7,.1f} s   {verdict}{offload} ({longest}){kept}"
        )


def estimate(
    model: nn.Module,
    n_tokens: int | Sequence[int],
    *,
    objective: ObjectiveLike = "next_token",
    layers: Sequence[int] | None = None,
    offload: Offload = "auto",
    keep: Keep = "auto",
    available_bytes: int | None = None,
) -> Estimate:
    """Tell what mapping a trace would cost, without running the model.

    Args:
        model: HookedTransformer, TransformerBridge or a causal transformers model.
        n_tokens: Length of the trace; of each one, for several that are mapped in one call.
        objective: As in `step_saliency`.
        layers: Layers to be mapped; all by default.
        offload: As in `step_saliency`.
        keep: As in `step_saliency`.
        available_bytes: Memory to fit into; by default what is free on the model's device.

    Returns:
        Peak memory above the weights, rough seconds and the largest length that fits, of both
        paths.

    Raises:
        ValueError: no tokens, an unknown option, a layer that the model lacks, or a model that
            neither path can take.
    """
    check_option("keep", keep, KEEPS)
    room = _room(model, n_tokens, objective, layers, available_bytes)
    speed, bandwidth = measured_speed(room.work.shape)
    offloads = room.offloads(offload, keep)
    streaming = _Candidate(room, Path("streaming", offloads[0], keep))
    if not streaming.fits:
        streaming = _Candidate(room, Path("streaming", offloads[-1], keep))
    hooks = _Candidate(room, Path("hooks"))
    return Estimate(
        n_tokens=max(room.lengths),
        available_bytes=room.free,
        device=str(room.work.shape.device),
        hooks=hooks.estimate(
            room.work.hooks_seconds(room.lengths, speed, bandwidth), _hooks_refusal(model)
        ),
        streaming=streaming.estimate(
            room.work.streaming_seconds(
                room.lengths, speed, keep=room.kept(keep, offload=streaming.path.offload)
            ),
            refusal(model),
        ),
        n_traces=len(room.lengths),
        context=stated_context(model),
    )


def choose_path(
    model: nn.Module,
    n_tokens: int | Sequence[int],
    *,
    method: Method = "auto",
    objective: ObjectiveLike = "next_token",
    layers: Sequence[int] | None = None,
    offload: Offload = "auto",
    keep: Keep = "auto",
    available_bytes: int | None = None,
) -> Path:
    """The path to take for one trace, or for several in one call.

    ``"auto"`` takes hooks up to `SHORT` tokens and where streaming refuses the model (for instance
    because of hooks at attention scores), else streaming; and the other one if that alone fits, or
    if the keys or values that hooks show are not those of attention, which the doctor tells.
    ``offload="auto"`` offloads where streaming fits into a GPU's memory in no other way;
    ``keep="auto"`` keeps the most that takes no more than `SPARE` of what is free. A warning says
    why a long trace is mapped by hooks.

    Args:
        model: The model.
        n_tokens: Length of the trace; of each one, for several.
        method: ``"auto"``, or a path to insist on.
        objective: As in `step_saliency`.
        layers: Layers to be mapped; all by default.
        offload: As in `step_saliency`.
        keep: As in `step_saliency`.
        available_bytes: Memory to fit into; by default what is free on the model's device.

    Raises:
        ValueError: an unknown option, or nothing that is allowed fits or takes the model.
    """
    check_option("keep", keep, KEEPS)
    room = _room(model, n_tokens, objective, layers, available_bytes)
    refusals = {"hooks": _hooks_refusal(model), "streaming": refusal(model)}
    hooks = [Path("hooks")]
    streaming = [Path("streaming", offloaded, keep) for offloaded in room.offloads(offload, keep)]
    paths = hooks + streaming if max(room.lengths) <= SHORT else streaming + hooks
    for path in paths:
        candidate = _Candidate(room, path)
        if method not in ("auto", path.name) or refusals[path.name] or not candidate.fits:
            continue
        if path.name == "hooks":
            refusals["hooks"] = _hidden_keys(model)
            if refusals["hooks"]:
                continue
            if method == "auto" and max(room.lengths) > SHORT:
                say_slower(refusals["streaming"] or "streaming does not fit", stacklevel=4)
        return candidate.chosen
    if method != "auto" and (reason := refusals[method]) is not None:
        raise ValueError(reason)
    if all(refusals.values()):
        neither = "; ".join(f"method={name!r}: {reason}" for name, reason in refusals.items())
        raise ValueError(f"neither path takes this model: {neither}")
    raise ValueError(room.shortage([hooks[-1], streaming[-1]], refusals))


@dataclass(frozen=True)
class _Room:
    """Traces to be mapped, and the memory that there is for it."""

    work: Work
    lengths: tuple[int, ...]
    free: int

    def offloads(self, offload: Offload, keep: Keep) -> list[bool]:
        """What to try, the preferred one first; what is offloaded is the inputs of blocks alone."""
        if offload not in (True, False, "auto"):
            raise ValueError(f"offload={offload!r} is neither True, False nor 'auto'")
        if offload == "auto":
            can_offload = self.work.can_offload and keep in ("auto", "inputs")
            return [False, True] if can_offload else [False]
        return [offload]

    def kept(self, keep: Keep, *, offload: bool) -> Keep:
        """What streaming keeps of each block."""
        if offload and keep not in ("auto", "inputs"):
            raise ValueError(f"keep={keep!r} with offload=True: what is offloaded is the inputs")
        if keep != "auto":
            return keep
        left = self.free - self.work.streaming_bytes(self.lengths, offload=offload)
        spare = 0 if offload and self.work.can_offload else min(SPARE * self.free, left)
        if self.work.kept_bytes(self.lengths, "activations") <= spare:
            return "activations"
        return "heads" if self.work.kept_bytes(self.lengths, "heads") <= spare else "inputs"

    def shortage(self, paths: Sequence[Path], refusals: dict[str, str | None]) -> str:
        """Why none of these paths can be taken."""
        traces = "a trace of" if len(self.lengths) == 1 else f"{len(self.lengths)} traces of up to"
        verb = "does not fit" if len(self.lengths) == 1 else "do not fit"
        fewer = "fewer layers" if len(self.lengths) == 1 else "fewer traces or layers"
        needs = "; ".join(
            f"method={path.name!r} {_Candidate(self, path).need(refusals[path.name])}"
            for path in paths
        )
        return (
            f"{traces} {max(self.lengths):,} tokens {verb} into the {_gigabytes(self.free)} free "
            f"on {self.work.shape.device}: {needs}. Map {fewer} at a time, or load the model in "
            "half precision"
        )


@dataclass(frozen=True)
class _Candidate:
    """One path for the traces at hand."""

    room: _Room
    path: Path

    def n_bytes(self, lengths: Sequence[int]) -> int:
        if self.path.name == "hooks":
            return self.room.work.hooks_bytes(lengths)
        keep = "inputs" if self.path.keep == "auto" else self.path.keep
        return self.room.work.streaming_bytes(lengths, keep=keep, offload=self.path.offload)

    @property
    def chosen(self) -> Path:
        """The path, with what streaming keeps decided."""
        if self.path.name == "hooks":
            return self.path
        return replace(self.path, keep=self.room.kept(self.path.keep, offload=self.path.offload))

    @property
    def kept_bytes(self) -> int:
        """What is kept to be faster, where nobody asked for it."""
        if self.path.name == "hooks" or self.path.keep != "auto":
            return 0
        return self.room.work.kept_bytes(self.room.lengths, self.chosen.keep)

    @property
    def fits(self) -> bool:
        work, lengths = self.room.work, self.room.lengths
        offloaded = work.offloaded_bytes(lengths) if self.path.offload and work.can_offload else 0
        if offloaded and offloaded > free_bytes(torch.device("cpu")):
            return False
        return self.n_bytes(lengths) <= self.room.free

    @property
    def longest(self) -> int:
        return longest(self.n_bytes, self.room.free)

    def need(self, refused: str | None) -> str:
        if refused is not None:
            return f"is not possible ({refused})"
        offload = " with offload=True" if self.path.offload else ""
        return (
            f"needs {_gigabytes(self.n_bytes(self.room.lengths))}{offload} and would fit up to "
            f"{self.longest:,} tokens"
        )

    def estimate(self, seconds: float, refused: str | None) -> PathEstimate:
        n_bytes, offload = self.n_bytes(self.room.lengths), self.path.offload
        return PathEstimate(
            self.path.name, n_bytes, seconds, self.longest, refused, offload, self.kept_bytes
        )


def _room(
    model: nn.Module,
    n_tokens: int | Sequence[int],
    objective: ObjectiveLike,
    layers: Sequence[int] | None,
    available_bytes: int | None,
) -> _Room:
    lengths = whole_numbers(n_tokens, least=1) or whole_numbers([n_tokens], least=1)
    if lengths is None:
        raise ValueError(
            f"n_tokens={n_tokens!r} must be a whole number, 1 or above, or one for each trace"
        )
    check_objective(objective)
    shape = model_shape(model)
    mapped = layer_numbers(layers, shape.n_layers)
    free = free_bytes(shape.device) if available_bytes is None else available_bytes
    return _Room(Work.of(shape, objective, mapped), tuple(lengths), free)


def say_slower(reason: str, *, stacklevel: int) -> None:
    """Warn that a long trace is mapped by hooks, and why."""
    warnings.warn(
        "mapped by hooks, slower than streaming and in memory that grows with the square of the "
        f"length: {reason}",
        stacklevel=stacklevel,
    )


def _hooks_refusal(model: nn.Module) -> str | None:
    if not hasattr(model, "hook_dict"):
        return (
            "a plain transformers model has no hook points; step_saliency takes a "
            "HookedTransformer or a TransformerBridge, which step_saliency.load_model makes"
        )
    attention: Any = getattr(model.blocks[0], "attn", None)  # type: ignore[index]
    if type(attention).__name__ == "AttentionBridge":
        return (
            "this bridge leaves attention to transformers, and its hooks only report it; use "
            "method='streaming'"
        )
    if (clip := value_clip(model)) is not None:
        return (
            f"this model clips queries, keys and values (clip_qkv={clip}) after hook_k and hook_v; "
            "use method='streaming'"
        )
    return None


def _hidden_keys(model: nn.Module) -> str | None:
    """Why the keys or values that hooks show are not those of attention; None if they are."""
    try:
        require_capabilities(model, ["score_products", "head_outputs"])
    except ValueError as error:
        return str(error)
    return None


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB"
