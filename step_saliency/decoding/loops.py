"""Which loop decodes a job: the TransformerLens object's, or that of its reference model.

``auto`` takes the reference model if it makes the same predictions under the same edits, and if it
is there already or so many tokens may be drawn that reading the weights again is worth it.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from inspect import getattr_static
from typing import Any
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from step_saliency.decoding.engine import engine_loop
from step_saliency.decoding.hooked import cached_reader
from step_saliency.decoding.job import Job
from step_saliency.decoding.readers import Reader, TransformersReader
from step_saliency.decoding.refill import Follower, Slots, decode, described_rows
from step_saliency.decoding.rows import Row
from step_saliency.decoding.token_passes import TokenPasses
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.fast import FastSession, fast_session
from step_saliency.intervene.session import followed, is_attached_to
from step_saliency.models.adapter import NotAdaptableError
from step_saliency.models.doctor import require_capabilities, require_sound
from step_saliency.models.facts import backend_of, dtype_of
from step_saliency.models.hooking import hooked_points
from step_saliency.models.interrupts import one_change
from step_saliency.models.reference import (
    OwnAttentionError,
    check_reference_model,
    has_reference_model,
    is_inside,
    own_predictions,
    reference_model,
)
from step_saliency.models.turns import Alone, share_turn, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.options import DecodingMethod

WORTH_READING_AGAIN = 1000
"""Tokens that may be drawn, from which on "auto" reads the weights once more for the fast loop.

Tokens of prompts count for an eighth: they are read together, but the hooks' loop reads all of each
prompt, where the fast one reads what prompts begin with once.
"""

_BY_ITSELF: "WeakSet[PreTrainedModel]" = WeakSet()
"""Models whose attention was last seen not to be what any other would make of their weights."""

Rows = Generator[Row, None, None]
Loop = Callable[[Sequence[Row]], Rows]
"""Fills the rows of one unit of work; yields each when it is done."""


def choose_loop(job: Job, method: DecodingMethod, rows: Sequence[Row]) -> Loop:
    """The loop to decode rows with.

    Args:
        job: The job.
        method: ``"auto"``, or the one that it must be.
        rows: All its rows.

    Raises:
        ValueError: a method that the model or the flow cannot be decoded by.
    """
    if method == "vllm":
        return engine_loop(job)
    with turn(job.model, alone="waits"), undisturbed(job.model, warn=False):
        require_sound(job.model)
        reference = _reference_for(job, method, rows)
        if reference is None and job.flow is not None:
            require_capabilities(job.model, ["cached_decoding"])
    if reference is not None:
        return fast_loop(job, reference)
    if is_attached_to(job.model) and len(rows) > 1 and job.n_slots > 1:
        warnings.warn(
            "responses are decoded one at a time, since edits that are attached already do not "
            "hear of rows that come and go; give them as flow= instead",
            stacklevel=4,
        )
    return hooked_loop(job)


def hooked_loop(job: Job) -> Loop:
    """Decode by the TransformerLens object itself."""
    slots_job = _one_at_a_time(job)

    def decode_rows(rows: Sequence[Row]) -> Rows:
        alone: Alone | None = None if job.flow is None else "waits"
        attached = nullcontext() if job.flow is None else job.flow.attached(job.model)
        cut = ExpectedRows(format=job.decoding.format, splitter=job.decoding.splitter)
        session: Any = None
        try:
            with (
                turn(job.model, alone=alone),
                undisturbed(job.model),
                followed(job.model, cut),
                attached as session,
            ):
                follower = session if isinstance(session, Follower) else None
                reader = cached_reader(job.model, keep_all=follower is not None)
                yield from decode(_slots(slots_job, reader, follower), rows)
        finally:
            _count(job, session)

    return decode_rows


def _one_at_a_time(job: Job) -> Job:
    """One slot where edits are attached already, and for a bridge in float64.

    The edits do not hear of rows that come and go. The bridge cannot mask padding: eager attention
    of transformers has its softmax in float32, where the mask of float64 is -inf, so that rows that
    are padded would be NaN.
    """
    is_exact_bridge = backend_of(job.model) == "bridge" and dtype_of(job.model) == torch.float64
    if is_exact_bridge or is_attached_to(job.model):
        return _one_row_each(job)
    return job


def fast_loop(job: Job, reference: PreTrainedModel) -> Loop:
    """Decode by the reference model; the flow acts inside its attention."""
    edits = job.edits
    assert edits is not None

    def decode_rows(rows: Sequence[Row]) -> Rows:
        session: FastSession | None = None
        try:
            with (
                turn(job.model),
                undisturbed(reference),
                _fast_session(job, reference, edits) as session,
                _token_passes(reference, session) as token_passes,
            ):
                follower = session if edits else None
                reader = TransformersReader(
                    reference,
                    keep_all=bool(edits),
                    session=follower,
                    token_passes=token_passes,
                )
                by_itself = session is None and dtype_of(reference) == torch.float64
                slots_job = _one_row_each(job) if by_itself else job  # eager masks are -inf there
                yield from decode(_slots(slots_job, reader, follower), rows)
        finally:
            _count(job, session)

    return decode_rows


def _one_row_each(job: Job) -> Job:
    return replace(job, decoding=replace(job.decoding, batch_size=1))


@one_change
def _fast_session(
    exits: ExitStack, job: Job, reference: PreTrainedModel, edits: Sequence[Edit]
) -> FastSession | None:
    """The session of the edits; None where none is to be had and there are none.

    Without edits too the model attends by SDPA, as it does where edits are idle: what is compared
    differs by the edits, and not by rounding in another kernel; but for models `_BY_ITSELF`. In
    float64 padding is masked so, see `_one_at_a_time`.
    """
    if not edits and reference is job.model and reference in _BY_ITSELF:
        return None
    bridge = job.model if is_inside(job.model, reference) else None
    exits.enter_context(turn(reference if bridge is None else bridge, alone="waits"))
    try:
        return exits.enter_context(fast_session(reference, edits, job.tokenizer, bridge=bridge))
    except NotAdaptableError:
        if edits or reference is not job.model:
            raise
        return None  # a model that can have no edits attends as it does by itself


def _token_passes(
    reference: PreTrainedModel, session: FastSession | None
) -> AbstractContextManager[TokenPasses | None]:
    """Single tokens by CUDA graphs; None on other devices."""
    if session is None or reference.device.type != "cuda" or torch.version.hip is not None:
        return nullcontext()
    return closing(TokenPasses(reference, session))


def _slots(job: Job, reader: Reader, follower: Follower | None) -> Slots:
    return Slots(
        reader,
        job.n_slots,
        job.sampler,
        job.rules,
        follower=follower,
        expected=partial(described_rows, decoding=job.decoding),
    )


def _count(job: Job, session: Any) -> None:
    """Add what edits did, also where decoding was broken off."""
    # getattr with a default would take an error while effects are counted for none
    if job.effects is None or getattr_static(session, "effects", None) is None:
        return
    if isinstance(session.effects, Effects):
        job.effects.include(session.effects)


def _reference_for(job: Job, method: DecodingMethod, rows: Sequence[Row]) -> PreTrainedModel | None:
    """The reference model to decode with; None for the hooks' loop."""
    is_plain = isinstance(job.model, PreTrainedModel)
    if method == "hooks":
        if is_plain:
            raise ValueError(
                f"method='hooks' needs a HookedTransformer or TransformerBridge, got "
                f"{type(job.model).__name__}"
            )
        return None
    sizes = [(row.limit, len(row.prompt)) for row in rows]
    few = not worth_reading_again(sizes)
    if method == "auto" and few and not has_reference_model(job.model):
        return None
    try:
        return _checked_reference(job, rows[0].prompt)
    except ValueError as error:
        if method == "fast" or is_plain:
            raise
        warnings.warn(f"decoding by the model's hooks, slower: {error}", stacklevel=5)
        return None


def worth_reading_again(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether responses are work enough to read the weights once more for the fast loop.

    Args:
        sizes: Tokens that may be drawn, and tokens of the prompt, of each.
    """
    drawn, read = map(sum, zip(*sizes, strict=True))
    return drawn + read / 8 >= WORTH_READING_AGAIN


def _checked_reference(job: Job, prompt: list[int]) -> PreTrainedModel:
    """The reference model, once it has been seen to predict as the model does."""
    if job.edits is None:
        raise ValueError(
            f"method='fast' takes an Edit or an EditGroup such as StepFlow, but the flow is a "
            f"{type(job.flow).__name__}; use method='hooks'"
        )
    hooked = [] if isinstance(job.model, PreTrainedModel) else hooked_points(job.model)
    if hooked:
        raise ValueError(
            f"method='fast' does not run the model's hooks, but there are some at "
            f"{', '.join(hooked[:3])}; remove them or use method='hooks'"
        )
    reference = reference_model(job.model)
    share_turn(job.model, reference)
    own = own_predictions(job.model, reference, prompt)
    _BY_ITSELF.discard(reference)  # it may attend in another way since
    try:
        with _fast_session(job, reference, job.edits) as session:
            if session is not None:
                check_reference_model(job.model, reference, prompt, own)
    except OwnAttentionError:
        if job.edits or reference is not job.model:
            raise
        _BY_ITSELF.add(reference)
    return reference
