"""The requests of one engine: which of them have a flow, and what the next pass does to them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import local
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.rows import TrackedRow
from step_saliency.segment.frame import PromptReader
from step_saliency.segment.online import StepTracker
from step_saliency.vllm.counts import RequestCounts
from step_saliency.vllm.members import MemberTable
from step_saliency.vllm.options import FlowOptions
from step_saliency.vllm.plan import PassPlan, PlannedRow
from step_saliency.vllm.requests import RequestSteps

_running = local()


@dataclass(frozen=True, eq=False)
class RunningPass:
    """The pass that this thread computes.

    Attributes:
        plan: What it edits.
        counts: Where it is counted.
        residuals: What each layer with momentum reads at the tokens that get it, ``injection
            d_model``, where it is known.
    """

    plan: PassPlan
    counts: RequestCounts
    residuals: dict[int, Tensor] = field(default_factory=dict)


def running() -> RunningPass | None:
    """The pass that this thread computes, if any of its requests has a flow."""
    return getattr(_running, "pass_", None)


@contextmanager
def passes() -> Iterator[None]:
    """Context of one pass, after which none is running."""
    try:
        yield
    finally:
        _running.pass_ = None


class Scheduled(NamedTuple):
    """What the engine computes of one request in a pass.

    Attributes:
        request: Its identity.
        row: Its row in the block table.
        start: Position of its first token of the pass.
        tokens: Tokens of the pass.
        first: Index of the first among all tokens of the pass.
    """

    request: str
    row: int
    start: int
    tokens: Sequence[int]
    first: int


@runtime_checkable
class Layers(Protocol):
    """The layers of an engine's model, as the norm of momentum needs them."""

    def watch(self, layers: Iterable[int]) -> None:
        """From now on note in each pass what these layers read where momentum is added."""

    def written(
        self, layer: int, outputs: Float[Tensor, "injection head d_value"]
    ) -> Float[Tensor, "injection d_model"]:
        """What head outputs of a layer write to the residual stream."""


@dataclass(eq=False)
class EngineFlows:
    """Flows of an engine's requests.

    Attributes:
        tokenizer: Returns its tokenizer.
        n_layers: Layers of its model.
        device: Where it computes.
        default: What a request gets that asks for nothing.
        layers: Its layers; None where they cannot be looked into.
        counts: What was done to each request.
    """

    tokenizer: Callable[[], Any]
    n_layers: int
    device: torch.device
    default: FlowOptions = field(default_factory=FlowOptions)
    layers: Layers | None = None
    counts: RequestCounts = field(init=False)
    _steps: dict[str, RequestSteps | None] = field(default_factory=dict)
    _reader: PromptReader | None = None
    _members: MemberTable = field(init=False)

    def __post_init__(self) -> None:
        self._members = MemberTable(self.device)
        written = None if self.layers is None else self.layers.written
        self.counts = RequestCounts(self._members.places, written)

    def __len__(self) -> int:
        """Requests that are running, or whose members are kept."""
        return max(len(self._steps), len(self._members))

    def add(self, request: str, asked: Any, prompt: Sequence[int]) -> None:
        """A request comes in.

        Args:
            request: Its identity.
            asked: What it asks for; None for the default.
            prompt: Its prompt.

        Raises:
            ValueError: see `FlowOptions.of`.
        """
        options = self.default if asked is None else FlowOptions.of(asked)
        flow = options.for_depth(self.n_layers)
        if flow is None:
            self._steps[request] = None
            return
        if flow.smi is not None and self.layers is not None:
            self.layers.watch(flow.smi.layers)
        self._steps[request] = RequestSteps(flow, self._row(options), prompt)

    def check(self, options: FlowOptions, prompt: Sequence[int]) -> FlowOptions:
        """See that the prompt of a request with a flow can be read.

        Args:
            options: Its flow.
            prompt: Its prompt; empty where it is given as embeddings.

        Returns:
            The flow with the length of the prompt as it was read.

        Raises:
            ValueError: it has no tokens, fewer than ``n_prompt``, some that the tokenizer does not
                know, or the question does not stand in it.
        """
        if not prompt:
            raise ValueError("a prompt without tokens (embeddings) has no steps")
        if options.n_prompt is not None and options.n_prompt > len(prompt):
            raise ValueError(
                f"n_prompt={options.n_prompt} is more than the {len(prompt)} there are"
            )
        row = self._row(options)
        row.read(prompt)
        return replace(options, n_prompt=row.n_prompt)

    def _row(self, options: FlowOptions) -> TrackedRow:
        tracker = StepTracker(self.tokenizer(), format=options.format, splitter=options.splitter)
        return TrackedRow(
            tracker, self._prompt_reader, question=options.question, n_prompt=options.n_prompt
        )

    def __contains__(self, request: str) -> bool:
        return request in self._steps

    def end(self, requests: Iterable[str]) -> None:
        """Requests end, or are given up."""
        ended = list(requests)
        for request in ended:
            self._steps.pop(request, None)
        self.counts.leave(ended)
        self._members.forget(ended)

    def begin_pass(self, scheduled: Iterable[Scheduled]) -> None:
        """Plan a pass; it runs in this thread until `passes` is left."""
        rows = [self._planned(each) for each in scheduled]
        planned = [row for row in rows if row is not None and (row.acts or row.injections)]
        plan = PassPlan(planned, self._members)
        _running.pass_ = RunningPass(plan, self.counts) if planned else None

    def _planned(self, scheduled: Scheduled) -> PlannedRow | None:
        steps = self._steps.get(scheduled.request)
        if steps is None:
            return None
        start, stop = scheduled.start, scheduled.start + len(scheduled.tokens)
        steps.read(start, scheduled.tokens)
        return PlannedRow(
            request=scheduled.request,
            steps=steps,
            row=scheduled.row,
            first=scheduled.first,
            start=start,
            stop=stop,
            acts=steps.bridge_acts(start, stop),
            injections=steps.injections(start, stop),
            fresh=steps.computed(stop),
        )

    def needs(self, requests: Iterable[str]) -> bool:
        """Whether any of these requests has a flow."""
        return any(self._steps.get(request) is not None for request in requests)

    def _prompt_reader(self) -> PromptReader:
        if self._reader is None:
            self._reader = PromptReader(self.tokenizer())
        return self._reader


def asked_of(extra_args: Mapping[str, Any] | None, key: str) -> Any:
    """What a request asks for; None where it asks for nothing."""
    return None if not extra_args else extra_args.get(key)
