"""Requests that wait, decoded together.

One thread a model takes what is there, waits until nothing new has come for a moment, and asks
`ss.generate` for the largest group of requests that one call can answer. A response depends on its
own seeds alone, so it is the same whatever is asked for beside it.
"""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from step_saliency.benchmark.provider.requests import Answer, Request
from step_saliency.benchmark.provider.room import NoRoomError, check_room
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.benchmark.provider.store import Store
from step_saliency.benchmark.provider.weights import Weights, weights_for
from step_saliency.decoding.generate import generate
from step_saliency.intervene.effects import Effects
from step_saliency.models.memory import give_back
from step_saliency.trace import Trace

Load = Callable[[], Weights]


class Waiting:
    """Requests of one model under one flow, and the thread that answers them.

    Args:
        name: Name of the model.
        settings: Options of the provider.
    """

    def __init__(self, name: str, settings: ProviderSettings) -> None:
        self.name = name
        self.settings = settings
        self.store = None if settings.store is None else Store(settings.store)
        self._arrivals: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def weights(self) -> Weights:
        """The model, read when it is first needed."""
        return weights_for(self.name, self.settings)

    def ask(self, request: Request) -> "Future[Answer]":
        """Queue a request; its answer is in the future that is returned."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name=f"decoding {self.name}", daemon=True
                )
                self._thread.start()
        self._arrivals.put(request)
        return request.answer

    def _serve(self) -> None:
        waiting: list[Request] = []
        while True:
            if not waiting:
                waiting.append(self._arrivals.get())
            waiting += self._arrived()
            together = next_call(waiting, self.settings.requests_per_call)
            waiting = [request for request in waiting if request not in together]
            try:
                self._answer(together)
            except BaseException as error:
                for request in together:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            give_back()

    def _arrived(self) -> list[Request]:
        """What comes until nothing comes any more."""
        requests: list[Request] = []
        while True:
            try:
                requests.append(self._arrivals.get(timeout=self.settings.wait or 0.001))
            except queue.Empty:
                return requests

    def _answer(self, requests: Sequence[Request]) -> None:
        missing = [request for request in requests if self._has_room(request)]
        if self.store is not None:
            missing = [request for request in missing if not self._is_kept(request)]
        if missing:
            answers = decode(missing, self.weights, self.settings, self.store)
            for request, answer in zip(missing, answers, strict=True):
                request.answer.set_result(answer)

    def _has_room(self, request: Request) -> bool:
        """Whether a response can go on; one that cannot is told so and does not end the others."""
        try:
            check_room(request, self.weights.tokenizer, self.weights.context)
        except NoRoomError as error:
            request.answer.set_exception(error)
            return False
        return True

    def _is_kept(self, request: Request) -> bool:
        assert self.store is not None
        kept = self.store.find(request)
        if kept is not None:
            request.answer.set_result(kept)
        return kept is not None


def next_call(waiting: Sequence[Request], most: int) -> list[Request]:
    """The largest group of requests that one call can answer, each place once."""
    groups: dict[Any, dict[tuple[int, int], Request]] = {}
    for request in waiting:
        groups.setdefault(request.group, {}).setdefault(request.place, request)
    largest = max(groups.values(), key=len)
    return list(largest.values())[:most]


def decode(
    requests: Sequence[Request],
    weights: Weights,
    settings: ProviderSettings,
    store: Store | None = None,
) -> list[Answer]:
    """Answer requests of one group by one call of `ss.generate`."""
    group = requests[0].group
    if store is not None:
        return _decode(requests, weights, settings, store.new_file(group), store)
    with tempfile.TemporaryDirectory() as folder:
        return _decode(requests, weights, settings, Path(folder) / "traces.jsonl", None)


def _decode(
    requests: Sequence[Request],
    weights: Weights,
    settings: ProviderSettings,
    file: Path,
    store: Store | None,
) -> list[Answer]:
    group = requests[0].group
    effects = Effects()
    started = time.perf_counter()
    traces = generate(
        weights.model,
        [request.question for request in requests],
        flow=settings.flow_for(weights.model),
        decoding=replace(group.decoding, **settings.slots_of_engine),
        question_numbers=[request.number for request in requests],
        samples=[request.sample for request in requests],
        continued=[request.continued for request in requests],
        tokenizer=group.frame.tokenizer(weights.tokenizer),
        save_to=None if store is None else file,
        effects=effects,
        progress=False,
    )
    facts = _facts(traces, effects, time.perf_counter() - started)
    if store is not None:
        store.keep_facts(file, facts)
    return [Answer(trace, facts) for trace in traces]


def _facts(traces: Sequence[Trace], effects: Effects, seconds: float) -> dict[str, Any]:
    """Seconds of the call by response, and its effects by edit over all layers and heads."""
    frame = effects.to_frame()
    counts = ["rows_seen", "rows_shifted", "infeasible", "injections"]
    totals = frame.groupby("edit")[counts].sum(min_count=1) if len(frame) else frame
    return {
        "seconds": seconds / len(traces),
        "responses": len(traces),
        "effects": {
            str(edit): {name: int(value) for name, value in row.items() if value == value}
            for edit, row in (totals.astype("float64").iterrows() if len(frame) else ())
        },
    }
