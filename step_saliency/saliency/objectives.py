"""What is differentiated: the scalar whose gradient at the attention weights weighs them.

Every objective is a sum over positions of a function of the logits there,

    L = sum_t loss(logits[t], tokens, t),

so that it can be computed in chunks of positions; only `Custom` needs all logits at once.

Local objectives ask of each query position t about the prediction made at t alone: row t of the map
holds A[t, k] * dL_t / dA[t, k]. Because L_t reads position t only, and a residual at position t can
reach L_t only by staying at t, all L_t are differentiated together by one backward pass in which
keys and values pass gradient on the diagonal only. For the other objectives L is one number, and
row t of the map says how much it depends on what position t attended to.

    next_token  L_t = -log p(tokens[t+1]); the paper's definition, exact
    log_odds    L_t = -(log p - log(1 - p)); the same direction row by row, without the factor 1 - p
                that makes confident rows vanish
    sequence    mean of -log p over all predictions (the authors' scripts): row t mixes in the
                influence on later tokens, and the scale shrinks with the length
    answer      mean of -log p over the answer's tokens: which steps drive the answer, also by way
                of others
    logit_diff  logit of the correct minus logit of the wrong token, at one position

Terms are formed in float64 from the model's logits (`log_odds`), so that sure predictions keep
their digits.

Source: "Reasoning Fails Where Step Flow Breaks" (ACL 2026), Step-Saliency; logit difference as in
TransformerLens' patching literature.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.options import OBJECTIVES, ObjectiveName, refuse
from step_saliency.saliency.given import whole_numbers
from step_saliency.saliency.log_odds import cross_entropy_of, log_odds_against, summed_gradient

Tokens = Int[Tensor, "pos"]
Queries = Int[Tensor, "query"]
"""Positions whose logits are read."""
Logits = Float[Tensor, "query vocab"]
AllLogits = Float[Tensor, "pos vocab"]
Losses = Float[Tensor, "query"]


class Objective(ABC):
    """A scalar of the logits of one sequence.

    Attributes:
        name: How tables and files call it.
        local: Whether row t of the map is the gradient of the loss at position t alone.
        last_row: Whether the prediction made at the last position counts.
    """

    name: str
    local: bool = False
    last_row: bool = False

    def queries(self, n_tokens: int) -> Queries:
        """Positions whose logits are read, ascending."""
        return torch.arange(n_tokens - 1)

    def reads_last(self, n_tokens: int) -> bool:  # noqa: ARG002
        """Whether the last of so many positions counts."""
        return self.last_row

    @abstractmethod
    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        """Terms of the sum for some of the positions of `queries`, in float64."""

    def gradient(
        self, logits: Logits, tokens: Tokens, queries: Queries
    ) -> tuple[Float[Tensor, ""], Logits]:
        """Sum of the terms of some positions, and its gradient at their logits."""
        logits = logits.detach().requires_grad_()
        with torch.enable_grad():
            total = self.position_losses(logits, tokens, queries).sum()
        (gradient,) = torch.autograd.grad(total, logits)
        return total.detach(), gradient

    def total(self, logits: AllLogits, tokens: Tokens) -> Float[Tensor, ""]:
        """The scalar itself, from all logits at once."""
        queries = self.queries(len(tokens)).to(logits.device)
        return self.position_losses(logits[queries], tokens, queries).sum()


def _next_token_loss(logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
    return cross_entropy_of(log_odds_against(logits, tokens[queries + 1]))


@dataclass(frozen=True)
class _OfNextTokens(Objective):
    """A sum over positions of losses or log-odds of the token that follows, equally weighted."""

    def gradient(
        self, logits: Logits, tokens: Tokens, queries: Queries
    ) -> tuple[Float[Tensor, ""], Logits]:
        of: Literal["loss", "log_odds"] = "log_odds" if self.name == "log_odds" else "loss"
        weight = self._weight(len(tokens))
        return summed_gradient(logits.detach(), tokens[queries + 1], of=of, weight=weight)

    def _weight(self, n_tokens: int) -> float:  # noqa: ARG002
        return 1.0


@dataclass(frozen=True)
class NextToken(_OfNextTokens):
    """Cross-entropy, in nats, of the token that follows each position."""

    name = "next_token"
    local = True

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        return _next_token_loss(logits, tokens, queries)


@dataclass(frozen=True)
class LogOdds(_OfNextTokens):
    """Negative log-odds, in nats, of the token that follows each position."""

    name = "log_odds"
    local = True

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        return log_odds_against(logits, tokens[queries + 1])


@dataclass(frozen=True)
class SequenceLoss(_OfNextTokens):
    """Mean cross-entropy, in nats, of all tokens but the first."""

    name = "sequence"

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        return _next_token_loss(logits, tokens, queries) / (len(tokens) - 1)

    def _weight(self, n_tokens: int) -> float:
        return 1.0 / (n_tokens - 1)


@dataclass(frozen=True)
class AnswerLoss(_OfNextTokens):
    """Mean cross-entropy, in nats, of the tokens at `positions`.

    Attributes:
        positions: Positions of the answer's tokens, ascending, from 1 (the first token is predicted
            by nothing).

    Raises:
        ValueError: no positions, one below 1, or (in a map) one beyond the trace.
    """

    positions: tuple[int, ...]
    name = "answer"

    def __post_init__(self) -> None:
        if not self.positions or min(self.positions) < 1:
            raise ValueError(
                f"answer positions are {self.positions}; give at least one, all from 1 on, because "
                "the first token of a trace is predicted by nothing"
            )

    def queries(self, n_tokens: int) -> Queries:
        if max(self.positions) >= n_tokens:
            raise ValueError(
                f"answer position {max(self.positions)} lies beyond the trace of {n_tokens} tokens"
            )
        return torch.tensor(sorted(set(self.positions))) - 1

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        return _next_token_loss(logits, tokens, queries) / len(set(self.positions))

    def _weight(self, n_tokens: int) -> float:  # noqa: ARG002
        return 1.0 / len(set(self.positions))


@dataclass(frozen=True)
class LogitDiff(Objective):
    """Logit of `correct` minus logit of `wrong` at one position, in nats.

    Attributes:
        correct: Token id whose logit counts positive.
        wrong: Token id whose logit counts negative; None for the largest other logit there.
        position: Position whose logits are read; negative counts from the end.

    Raises:
        ValueError: no token ids, the same twice, or (in a map) ids or a position out of range.
    """

    correct: int
    wrong: int | None = None
    position: int = -1
    name = "logit_diff"

    def __post_init__(self) -> None:
        ids = [token for token in (self.correct, self.wrong) if token is not None]
        refuse(
            {
                f"{self}: token ids are whole numbers, 0 or above": (
                    whole_numbers(ids, least=0) is None
                ),
                f"{self}: a position is a whole number": whole_numbers([self.position]) is None,
                f"{self}: the correct token is the wrong one too": self.correct == self.wrong,
            }
        )

    def queries(self, n_tokens: int) -> Queries:
        if not -n_tokens <= self.position < n_tokens:
            raise ValueError(f"position {self.position} is outside a trace of {n_tokens} tokens")
        return torch.tensor([self.position % n_tokens])

    def reads_last(self, n_tokens: int) -> bool:
        return self.position % n_tokens == n_tokens - 1

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:  # noqa: ARG002
        logits = logits.double()
        return logits[:, self.correct] - self._wrong_logit(logits)

    def _wrong_logit(self, logits: Logits) -> Losses:
        if self.wrong is not None:
            return logits[:, self.wrong]
        correct = torch.full_like(logits[:, :1], self.correct, dtype=torch.long)
        return logits.scatter(-1, correct, -torch.inf).amax(-1)


@dataclass(frozen=True)
class Custom(Objective):
    """Any scalar of the logits.

    Attributes:
        function: Takes logits, ``pos vocab``, and tokens, ``pos``; returns a scalar tensor that
            carries gradient.
    """

    function: Callable[..., Tensor]
    last_row = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """The function's own name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def queries(self, n_tokens: int) -> Queries:
        return torch.arange(n_tokens)

    def position_losses(self, logits: Logits, tokens: Tokens, queries: Queries) -> Losses:
        raise NotImplementedError("a function of all logits has no terms per position")

    def total(self, logits: AllLogits, tokens: Tokens) -> Float[Tensor, ""]:
        value = self.function(logits, tokens)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            raise ValueError(
                f"objective {self.name} returned {value!r:.80}; a scalar tensor that depends on "
                "the logits is needed"
            )
        return value


def check_objective(objective: object) -> None:
    """Raise ValueError for what is neither a name, an `Objective` with one, nor a function."""
    if isinstance(objective, type):
        raise ValueError(
            f"objective={objective.__name__} is a class; give {objective.__name__}(), an object"
        )
    is_known = isinstance(objective, Objective) or callable(objective) or objective in OBJECTIVES
    if not is_known:
        raise ValueError(
            f"objective={objective!r} is unknown; choose one of {', '.join(OBJECTIVES)}, an "
            "Objective or a function of (logits, tokens)"
        )
    if isinstance(objective, Objective) and not isinstance(getattr(objective, "name", None), str):
        kind = type(objective).__name__
        raise ValueError(
            f"objective={kind}() has no name for tables and files; set it: class {kind}: name = "
            "'...'"
        )


def resolve_objective(
    objective: ObjectiveName | Objective | Callable[..., Tensor],
    *,
    answer: Sequence[int] | None = None,
    answer_tokens: tuple[int, int] | None = None,
    tokens: Int[Tensor, "pos"] | None = None,
) -> Objective:
    """Turn a name or function into an objective.

    Args:
        objective: A name of the module docstring, an `Objective`, or a function (see `Custom`).
        answer: Positions of the answer's tokens, for ``answer`` and ``logit_diff``.
        answer_tokens: (correct, wrong) token ids for ``logit_diff``; without it the answer's first
            token against the largest other logit.
        tokens: The trace's tokens, for the correct token of ``logit_diff``.

    Raises:
        ValueError: the name is unknown, or the answer's positions are needed and missing.
    """
    check_objective(objective)
    if isinstance(objective, Objective):
        return objective
    if callable(objective):
        return Custom(objective)
    simple: dict[str, Callable[[], Objective]] = {
        "next_token": NextToken,
        "log_odds": LogOdds,
        "sequence": SequenceLoss,
    }
    if objective in simple:
        return simple[objective]()
    if not answer:
        raise ValueError(
            f"objective={objective!r} needs the answer's tokens, and the trace has no summary to "
            "take them from, or none beyond its first token, which nothing predicts; pass "
            "answer=[positions]"
        )
    if objective == "answer":
        return AnswerLoss(tuple(answer))
    if answer_tokens is not None:
        return LogitDiff(*answer_tokens, position=min(answer) - 1)
    assert tokens is not None
    return LogitDiff(int(tokens[min(answer)]), position=min(answer) - 1)
