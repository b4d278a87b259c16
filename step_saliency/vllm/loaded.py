"""A loaded engine, ``vllm.LLM`` or the ``LLMEngine`` inside it, as decoding sees it.

vLLM is not imported here: whoever has an engine has imported it.
"""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from step_saliency.intervene.effects import Effects
from step_saliency.vllm.counts import of_all_ranks

_LOCKS: "WeakKeyDictionary[Any, threading.RLock]" = WeakKeyDictionary()  # type: ignore[valid-type]
BACKENDS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")
"""Attention backends that take edits."""
FETCHED_AFTER = 1000
"""Requests that end before their effects are fetched; the engine keeps those of more."""


@runtime_checkable
class Engine(Protocol):
    """What is used of vLLM's ``LLMEngine``."""

    model_config: Any

    def add_request(self, request_id: str, prompt: Any, params: Any) -> str:
        """Take a request; returns the name that workers know it by."""

    def step(self) -> Sequence[Any]:
        """Compute one pass; what has come of requests."""

    def abort_request(self, request_ids: list[str]) -> None:
        """Give requests up."""

    def has_unfinished_requests(self) -> bool:
        """Whether requests are running or waiting."""

    def get_tokenizer(self) -> Any:
        """The tokenizer."""

    def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        """Call a method of every worker."""


@dataclass(frozen=True, eq=False)
class LoadedEngine:
    """An engine that decodes."""

    engine: Engine

    @classmethod
    def of(cls, model: Any) -> "LoadedEngine | None":
        """Of an ``LLM``, an ``LLMEngine``, or this itself; None of anything else."""
        if isinstance(model, cls):
            return model
        engine = getattr(model, "llm_engine", model)
        return cls(engine) if isinstance(engine, Engine) else None

    @cached_property
    def tokenizer(self) -> Any:
        """The engine's tokenizer."""
        return self.engine.get_tokenizer()

    @cached_property
    def generation_config(self) -> SimpleNamespace:
        """What the checkpoint says of decoding; ``eos_token_id`` among it."""
        return SimpleNamespace(**self.engine.model_config.try_get_generation_config())

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        return int(self.engine.model_config.max_model_len)

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return int(self.engine.model_config.hf_text_config.num_hidden_layers)

    @cached_property
    def facts(self) -> dict[str, str | int | None]:
        """What tells its responses from those of others; ``weights`` has a digest of each rank's,
        and responses end at ``max_length``."""
        config = self.engine.model_config
        digests = self._asked_of_workers("stepflow_weights")
        return {
            "class": "vllm",
            "source": str(config.model),
            "revision": config.revision,
            "weights": None if digests is None else " ".join(digests),
            "dtype": str(config.dtype),
            "max_length": self.context,
        }

    def require_flows(self) -> None:
        """See that every worker knows StepFlow, and that its attention takes edits.

        Raises:
            ValueError: one does not, so that flows would be passed over in silence.
        """
        if self._asked_of_workers("stepflow_weights") is None:
            raise ValueError(
                "the engine's workers do not know StepFlow, which vLLM finds by its entry points: "
                "install step-saliency where they run (and name stepflow in VLLM_PLUGINS, if that "
                "is set), with a version of vLLM that is tested"
            )

        others = {name for names in self._other_backends() for name in names}
        if others:
            raise ValueError(f"flows cannot be done by this engine: {other_backends(others)}")

    def _other_backends(self) -> list[list[str]]:
        return self._asked_of_workers("stepflow_other_backends") or []

    def _asked_of_workers(self, method: str) -> list[Any] | None:
        """What all workers say; None where they do not know the method."""
        try:
            return list(self.engine.collective_rpc(method))
        except Exception as error:  # over processes, a missing method is an error of any class
            if _says_that_it_lacks(error, method):
                return None
            raise

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which this call steps the engine; other threads wait.

        Raises:
            ValueError: it has requests of others, whose outputs would be lost.
        """
        with _LOCKS.setdefault(self.engine, threading.RLock()):
            if self.engine.has_unfinished_requests():
                raise ValueError(
                    "the engine has requests of another caller; let them end first (for many "
                    "callers there is the server)"
                )
            yield

    def effects_of(self, requests: Sequence[str]) -> Effects:
        """Effects of requests, which workers forget.

        Args:
            requests: The names that workers know them by.
        """
        by_worker = self.engine.collective_rpc("stepflow_counters", args=(list(requests),))
        effects = of_all_ranks(by_worker)
        if any(_lacks_norms(sums) for sums in effects.sums.values()):
            for counter, reason in self.engine.collective_rpc("stepflow_not_counted")[0].items():
                warnings.warn(f"effects have no {counter}: {reason}", stacklevel=2)
        return effects


def _says_that_it_lacks(error: Exception, method: str) -> bool:
    """Whether a worker does not know a method, or the method itself has failed."""
    is_unknown = isinstance(error, AttributeError | NotImplementedError)
    return method in str(error) and (is_unknown or "is not implemented" in str(error))


def _lacks_norms(sums: Mapping[str, Any]) -> bool:
    return "injections" in sums and "injected_norm" not in sums


def other_backends(names: Iterable[str]) -> str:
    """What is said of attention backends that take no edits."""
    return (
        f"attention by {', '.join(sorted(names))}, which leaves out edits; choose one of "
        f"{', '.join(BACKENDS)} (attention_backend)"
    )


def prompt_of(tokens: Sequence[int]) -> Mapping[str, Any]:
    """A prompt as engines take it."""
    return {"prompt_token_ids": list(tokens)}
