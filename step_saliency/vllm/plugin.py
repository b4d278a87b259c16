"""What vLLM calls at its start: StepFlow for every request that asks for it.

Three things of vLLM are changed, and each gives way at once where no request has a flow: the
attention backends edit their output (`backends`), the model runner says before each pass which
tokens it computes (`EngineFlows`), and the front end refuses what cannot be done, by name, before a
request reaches the engine.
"""

import functools
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import vllm
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.exceptions import VLLMValidationError
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.sampling_params import SamplingParams
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.triton_utils import dispatcher
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.worker_base import WorkerBase

from step_saliency.models.identity import weights_digest
from step_saliency.vllm import backends
from step_saliency.vllm.counts import Sent, sent
from step_saliency.vllm.engine import EngineFlows, Scheduled, asked_of, passes
from step_saliency.vllm.loaded import BACKENDS, other_backends
from step_saliency.vllm.model_layers import ModelLayers, not_seen
from step_saliency.vllm.options import KEY, FlowOptions
from step_saliency.vllm.refusals import flow_refusals, is_tested, refusals, untested

logger = init_logger("vllm.step_saliency")

ENVIRONMENT = "STEP_SALIENCY_FLOW"
"""Environment variable with the flow of requests that ask for none."""


class FlowError(VLLMValidationError, ValueError):
    """A request's flow cannot be done: status 400 of a server, ValueError in Python."""


def register() -> None:
    """Entry point ``vllm.general_plugins``; may be called more than once in a process.

    A call that fails has registered nothing for good: the next one does what is missing.
    """
    if getattr(InputProcessor, "_has_stepflow", False):
        return
    if is_tested(vllm.__version__):
        _register_backends()
        _wrap(GPUModelRunner, "_prepare_inputs", _prepare_inputs)
        _wrap(GPUModelRunner, "execute_model", _execute_model)
        _wrap(dispatcher, "_rebind_kernels", _rebind_kernels)
        WorkerBase.stepflow_effects = _stepflow_effects
        WorkerBase.stepflow_counters = _stepflow_counters
        WorkerBase.stepflow_weights = _stepflow_weights
        WorkerBase.stepflow_not_counted = _stepflow_not_counted
        WorkerBase.stepflow_other_backends = _stepflow_other_backends
    else:
        logger.warning("%s", untested(vllm.__version__))
    _wrap(InputProcessor, "process_inputs", _process_inputs)
    InputProcessor._has_stepflow = True


def _register_backends() -> None:
    register_backend(AttentionBackendEnum.CPU_ATTN)(backends.StepFlowCPUBackend)
    for name in (name for name in BACKENDS if name != "CPU_ATTN"):
        path, _, kind = AttentionBackendEnum[name].get_path().rpartition(".")
        if path == backends.__name__:
            continue
        try:
            backend = getattr(importlib.import_module(path), kind)
        except ImportError:
            continue
        made = backends.split_backend(backend)
        made.__module__, made.__qualname__ = backends.__name__, made.__name__
        setattr(backends, made.__name__, made)
        register_backend(AttentionBackendEnum[name])(made)


def _wrap(owner: Any, name: str, around: Any) -> None:
    inner = getattr(owner, name)
    if getattr(inner, "_is_stepflow", False):
        return

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return around(inner, *args, **kwargs)

    outer._is_stepflow = True  # type: ignore[attr-defined]
    setattr(owner, name, outer)


def default_options(config: VllmConfig) -> FlowOptions:
    """What requests get that ask for nothing, from ``additional_config`` or the environment.

    Raises:
        ValueError: see `FlowOptions.of`.
    """
    additional = config.additional_config
    given = additional.get(KEY) if isinstance(additional, dict) else None
    return FlowOptions.of(given if given is not None else os.environ.get(ENVIRONMENT))


def check_request(config: VllmConfig, params: Any) -> FlowOptions | None:
    """The options of a request's flow, None if it has none; refused where it cannot be done.

    Raises:
        ValueError: the request's flow is no flow, or the engine cannot do it.
    """
    if not isinstance(params, SamplingParams):
        return None
    asked = asked_of(params.extra_args, KEY)
    options = default_options(config) if asked is None else FlowOptions.of(asked)
    flow = options.for_depth(config.model_config.get_num_layers(config.parallel_config))
    if flow is None:
        return None
    reasons = [*refusals(config), *flow_refusals(config, flow)]
    if reasons:
        raise ValueError(f"{KEY}={options.flow!r} cannot be done here: {'; '.join(reasons)}")
    return options


def salted(salt: str | None, options: FlowOptions) -> str:
    """Salt of the prefix cache of a request with a flow.

    Keys and values above an edited layer are not those of the same tokens without the flow, or with
    another one, nor of tokens that are response to one request and prompt to another, as in the
    next turn of a conversation; so they are shared among requests of one flow and one length of the
    prompt alone.

    Args:
        salt: The request's own.
        options: Its flow, with the length of its prompt.
    """
    return f"{salt or ''} {KEY} {options!r}"


def _process_inputs(
    inner: Any, self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    try:
        options = check_request(self.vllm_config, params)
    except ValueError as error:
        raise FlowError(str(error)) from error
    request = inner(self, request_id, prompt, params, *args, **kwargs)
    if options is not None:
        try:
            options = _prompt_flows(self).check(options, request.prompt_token_ids or ())
        except ValueError as error:
            raise FlowError(f"{KEY}={options.flow!r}: {error}") from error
        request.cache_salt = salted(request.cache_salt, options)
    return request


def _prompt_flows(processor: Any) -> EngineFlows:
    """What reads prompts in the front end: one that cannot be read there would end the engine."""
    flows: EngineFlows | None = getattr(processor, "_stepflow", None)
    if flows is None:
        config = processor.vllm_config.model_config
        flows = processor._stepflow = EngineFlows(
            tokenizer=lambda: cached_tokenizer_from_config(config),
            n_layers=config.get_num_layers(processor.vllm_config.parallel_config),
            device=torch.device("cpu"),
        )
    return flows


def flows_of(runner: Any) -> EngineFlows:
    """The flows of a model runner's requests."""
    flows: EngineFlows | None = getattr(runner, "_stepflow", None)
    if flows is None:
        config = runner.vllm_config
        model = runner.get_model()
        flows = runner._stepflow = EngineFlows(
            tokenizer=lambda: cached_tokenizer_from_config(config.model_config),
            n_layers=config.model_config.get_num_layers(config.parallel_config),
            device=runner.device,
            default=default_options(config),
            layers=None if not_seen(config, model) else ModelLayers(model),
        )
    return flows


def _rebind_kernels(inner: Any, overrides: Any) -> Any:
    """Without llvmlite's modules, whose handles the scan of all modules takes for dictionaries."""
    names = [name for name in sys.modules if name.partition(".")[0] == "llvmlite"]
    hidden = {name: sys.modules.pop(name) for name in names}
    try:
        return inner(overrides)
    finally:
        sys.modules.update(hidden)


def _stepflow_effects(worker: Any) -> dict[str, list[dict[str, Any]]]:
    """Rows of `Effects.to_frame` of each request so far, which are forgotten here.

    ``llm.collective_rpc("stepflow_effects")`` gives them once for each worker; heads are numbered
    within the worker.
    """
    effects = flows_of(worker.model_runner).counts.fetch()
    return {
        request: json.loads(each.to_frame().to_json(orient="records"))
        for request, each in effects.items()
    }


def _stepflow_counters(worker: Any, requests: list[str]) -> dict[str, Sent]:
    """Sums that were counted for requests, which are forgotten here."""
    effects = flows_of(worker.model_runner).counts.fetch(requests)
    return {request: sent(each) for request, each in effects.items()}


def _stepflow_not_counted(worker: Any) -> dict[str, str]:
    """Counters that are missing in this engine, and why."""
    reason = not_seen(worker.vllm_config, worker.get_model())
    return {"injected_norm": reason} if reason else {}


def _stepflow_other_backends(worker: Any) -> list[str]:
    """Attention backends of this worker's layers that take no edits."""
    return other_backends_of(worker.model_runner)


def other_backends_of(runner: Any) -> list[str]:
    """Names of the attention backends of a model runner's layers that take no edits."""
    known: list[str] | None = getattr(runner, "_stepflow_other_backends", None)
    if known is None:
        layers = get_layers_from_vllm_config(runner.vllm_config, Attention)
        names = {layer.get_attn_backend().get_name() for layer in layers.values()}
        known = runner._stepflow_other_backends = sorted(names - set(BACKENDS))
    return known


def _stepflow_weights(worker: Any) -> str:
    """Digest of this worker's weights."""
    return weights_digest(worker.get_model())


def _execute_model(inner: Any, self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
    flows_of(self).end(scheduler_output.finished_req_ids)
    with passes():
        return inner(self, scheduler_output, *args, **kwargs)


def _prepare_inputs(inner: Any, self: Any, scheduler_output: Any, n_tokens: Any) -> Any:
    prepared = inner(self, scheduler_output, n_tokens)
    flows = flows_of(self)
    batch = self.input_batch
    requests = batch.req_ids[: batch.num_reqs]
    for request in requests:
        if request not in flows:
            state = self.requests[request]
            params = state.sampling_params
            asked = None if params is None else asked_of(params.extra_args, KEY)
            flows.add(request, asked, state.prompt_token_ids or ())
    if flows.needs(requests):
        others = other_backends_of(self)
        if others:
            raise ValueError(f"{KEY} cannot be done here: {other_backends(others)}")
        flows.begin_pass(_scheduled(self, requests, n_tokens.tolist()))
    return prepared


def _scheduled(runner: Any, requests: Iterable[str], n_tokens: list[int]) -> Iterator[Scheduled]:
    """The requests of a pass; the tokens are those that the device is about to read."""
    tokens = runner.input_ids.gpu[: sum(n_tokens)].tolist()
    starts = runner.input_batch.num_computed_tokens_cpu[: len(n_tokens)].tolist()
    first = 0
    for row, (request, n, start) in enumerate(zip(requests, n_tokens, starts, strict=True)):
        yield Scheduled(request, row, start, tokens[first : first + n], first)
        first += n
