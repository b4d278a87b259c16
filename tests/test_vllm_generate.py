"""`ss.generate` by an engine: what it asks of one, and what it refuses; no vLLM is needed here.

That its tokens are those of the other loops is for `test_vllm_engine`.
"""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import step_saliency as ss
from step_saliency.vllm import KEY
from step_saliency.vllm.loaded import LoadedEngine

FLOW = ss.StepFlow(
    oeb=ss.OddsEqualBridge([0], tau_max=0.3), smi=ss.StepMomentumInjection([7], alpha=0.3)
)
ANSWER = "\nGiven: r=4.\nThen v=r+r=4+4=8.\n</think>\n\nThe answer is 8."


@pytest.fixture(scope="module")
def model():
    return ss.load_model("reasoner")


class ScriptedEngine:
    """Answers every request with the same tokens, so many a pass."""

    def __init__(self, tokenizer: Any, tokens: list[int], *, knows_flows: bool = True) -> None:
        self.tokenizer, self.tokens, self.knows_flows = tokenizer, tokens, knows_flows
        self.model_config = SimpleNamespace(
            model="scripted", revision=None, dtype="torch.float32", max_model_len=1024,
            try_get_generation_config=lambda: {"eos_token_id": tokenizer.eos_token_id},
        )  # fmt: skip
        self.asked: dict[str, tuple[list[int], Any]] = {}
        self.given_up: list[str] = []
        self.fetched: list[str] = []
        self.reason = "stop"
        self.counts_norms = True
        self.other_backends: list[str] = []
        self._running: dict[str, int] = {}

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def has_unfinished_requests(self) -> bool:
        return bool(self._running)

    def add_request(self, request_id: str, prompt: Any, params: Any) -> str:
        self.asked[request_id] = (prompt["prompt_token_ids"], params)
        self._running[request_id] = 0
        return f"{request_id}-inner"

    def abort_request(self, request_ids: list[str]) -> None:
        self.given_up += request_ids
        for request in request_ids:
            self._running.pop(request, None)

    def step(self) -> list[Any]:
        return [output for request in list(self._running) for output in self._more(request)]

    def _more(self, request: str) -> list[Any]:
        """The next token; with ``FINAL_ONLY`` all of them at the end."""
        params = self.asked[request][1]
        self._running[request] += 1
        n = self._running[request]
        length = min(len(self.tokens), params.max_tokens)
        is_over = n == length
        if is_over:
            del self._running[request]
        first = 0 if params.output_kind == "final" else n - 1
        reason = None if not is_over else "length" if length < len(self.tokens) else self.reason
        made = SimpleNamespace(token_ids=self.tokens[first:n], finish_reason=reason)
        output = SimpleNamespace(request_id=request, outputs=[made], finished=is_over)
        return [output] if is_over or params.output_kind == "delta" else []

    def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
        if not self.knows_flows:
            raise AttributeError(method)
        if method == "stepflow_weights":
            return ["rank 0", "rank 1"]
        if method == "stepflow_other_backends":
            return [self.other_backends, []]
        if method == "stepflow_not_counted":
            return [{"injected_norm": "the engine's model is compiled"}] * 2
        self.fetched += args[0]
        if not self.counts_norms:
            return [{args[0][0]: [[7, "StepMomentumInjection", "injections", 3.0]]}] * 2
        counted = [0, "OddsEqualBridge", "rows_seen"]
        return [{args[0][0]: [[*counted, [1.0, 2.0]]]}, {args[0][0]: [[*counted, [3.0, 4.0]]]}]


@pytest.fixture
def engine(model, monkeypatch) -> ScriptedEngine:
    kinds = SimpleNamespace(DELTA="delta", FINAL_ONLY="final")
    params = SimpleNamespace(RequestOutputKind=kinds)
    vllm = SimpleNamespace(SamplingParams=SimpleNamespace, sampling_params=params)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    tokens = model.tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    return ScriptedEngine(model.tokenizer, [*tokens, model.tokenizer.eos_token_id])


QUESTIONS = ["n=v-9; r=4; v=r+r; c=v-r; ?n", "r=4; v=r+r; ?v"]


@pytest.mark.parametrize("method", ["vllm", "auto"])
def test_traces_are_what_the_engine_wrote(model, engine, method):
    llm = SimpleNamespace(llm_engine=engine)
    traces = ss.generate(llm, QUESTIONS, method=method, n=2, seed=3, progress=False)
    assert [(t.meta["question_index"], t.meta["sample"]) for t in traces] == [
        (0, 0), (0, 1), (1, 0), (1, 1),
    ]  # fmt: skip
    by_hooks = ss.generate(model, QUESTIONS, method="hooks", max_new_tokens=1, progress=False)
    assert traces[0].meta.keys() == by_hooks[0].meta.keys()
    for trace in traces:
        assert trace.meta["finished"]
        assert trace.tokens.tolist()[-len(engine.tokens) :] == engine.tokens
        assert any(step.region == "thinking" for step in trace.steps)
    prompts = [prompt for prompt, _ in engine.asked.values()]
    assert prompts[0] + engine.tokens == traces[0].tokens.tolist()
    seeds = {params.seed for _, params in engine.asked.values()}
    assert len(seeds) == 4
    assert all(params.extra_args[KEY]["flow"] == "off" for _, params in engine.asked.values())
    again = ss.generate(
        llm, QUESTIONS[1:], question_numbers=[1], samples=[1], seed=3, progress=False
    )
    assert list(engine.asked.values())[-1][1].seed == list(engine.asked.values())[3][1].seed
    assert again[0].meta["sample"] == 1


def test_a_flow_goes_with_each_request_and_its_effects_come_back(engine):
    effects = ss.intervene.Effects()
    ss.generate(engine, QUESTIONS, flow=FLOW, temperature=0, effects=effects, progress=False)
    for (prompt, params), question in zip(engine.asked.values(), QUESTIONS, strict=True):
        asked = params.extra_args[KEY]
        assert (asked["flow"], asked["tau_max"], asked["oeb_layers"]) == ("stepflow", 0.3, [0])
        assert (asked["question"], asked["n_prompt"]) == (question, len(prompt))
        assert params.seed is None
    assert effects.to_frame().rows_seen.tolist() == [1, 2, 3, 4], "heads of ranks follow each other"
    assert sorted(engine.fetched) == sorted(f"{name}-inner" for name in engine.asked)


def test_norms_that_an_engine_cannot_count_are_named(engine):
    engine.counts_norms = False
    effects = ss.intervene.Effects()
    with pytest.warns(UserWarning, match=r"no injected_norm: the engine's model is compiled"):
        ss.generate(engine, QUESTIONS[0], flow=FLOW, effects=effects, progress=False)
    (row,) = effects.to_frame().to_dict("records")
    assert row["injections"] == 3
    assert row["injected_norm"] != row["injected_norm"], "it is missing, not zero"


@pytest.mark.parametrize("edit", [FLOW.oeb, FLOW.smi])
def test_half_a_flow_is_a_flow(engine, edit):
    ss.generate(engine, QUESTIONS[:1], flow=edit, progress=False)
    ((_, params),) = engine.asked.values()
    assert params.extra_args[KEY]["flow"] == ("oeb" if edit is FLOW.oeb else "smi")


def test_responses_end_at_texts_and_lengths(model, engine):
    (cut,) = ss.generate(engine, QUESTIONS[0], max_new_tokens=9, progress=False)
    assert (cut.meta["finished"], cut.meta["response_tokens"]) == (False, 9)
    (ended,) = ss.generate(engine, QUESTIONS[0], stop_texts="4+4", progress=False)
    assert ended.meta["finished"]
    written = model.tokenizer.decode(ended.tokens.tolist()[-ended.meta["response_tokens"] :])
    assert written.endswith("4+4")
    assert engine.given_up == list(engine.asked)[1:]
    assert not engine.has_unfinished_requests()


def test_what_was_written_is_taken_up_and_that_of_another_model_is_not(model, engine, tmp_path):
    options: Any = {"temperature": 0, "save_to": tmp_path / "log.jsonl", "progress": False}
    first = ss.generate(engine, QUESTIONS[:1], **options)
    both = ss.generate(engine, QUESTIONS, **options)
    assert len(engine.asked) == 2
    assert both[0].tokens.tolist() == first[0].tokens.tolist()
    with pytest.raises(ValueError, match="model"):
        ss.generate(model, QUESTIONS, method="hooks", **options)


def test_a_request_that_the_engine_gives_up_is_said_and_the_others_end(engine):
    engine.tokens, engine.reason = engine.tokens[:-1], "error"
    with pytest.raises(ValueError, match=r"gave up the response to 'n=v-9.*: error"):
        ss.generate(engine, QUESTIONS, progress=False)
    assert not engine.has_unfinished_requests()


def test_a_call_that_is_broken_off_leaves_no_request(engine):
    effects = ss.intervene.Effects()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    engine.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        ss.generate(engine, QUESTIONS, flow=FLOW, effects=effects, progress=False)
    assert not engine.has_unfinished_requests()
    assert len(engine.fetched) == 2


class AsyncLLM:
    """An engine of another kind."""

    tokenizer = None

    def add_request(self) -> None: ...


@pytest.mark.parametrize("wrong", ["a model", None, AsyncLLM()])
def test_what_is_no_engine_is_refused(wrong):
    kind = type(wrong).__name__
    with pytest.raises(ValueError, match=f"method='vllm' needs a loaded engine.*type {kind}"):
        ss.generate(wrong, QUESTIONS, method="vllm")


def test_a_model_is_no_engine(model):
    with pytest.raises(ValueError, match="method='vllm' needs a loaded engine"):
        ss.generate(model, QUESTIONS, method="vllm")


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_an_engine_has_no_other_method(engine, method):
    with pytest.raises(ValueError, match=f"method='{method}' does not go with a vLLM engine"):
        ss.generate(engine, QUESTIONS, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8}, "batch_size=8: an engine has slots of its own"),
        ({"temperature": 0.005}, "temperature=0.005: a vLLM engine draws at 0.01"),
        ({"flow": FLOW, "splitter": lambda text: [0]}, "cannot be sent to an engine"),
        ({"flow": ss.OddsEqualBridge([0], placebo="random")}, "the bridge has placebo='random'"),
        ({"flow": ss.OddsEqualBridge([0], heads=[1])}, r"the bridge has heads="),
        (
            {"flow": ss.StepMomentumInjection([7], space="residual")},
            "momentum has space='residual'",
        ),
        ({"flow": ss.HeadScale(["L3H1"], 0.5)}, "the flow is a HeadScale"),
    ],
)
def test_what_an_engine_does_not_take_is_refused_before_anything_is_asked(engine, options, message):
    with pytest.raises(ValueError, match=message):
        ss.generate(engine, QUESTIONS, progress=False, **options)
    assert not engine.asked


def test_workers_that_do_not_know_stepflow_decode_without_it_alone(engine):
    engine.knows_flows = False
    with pytest.raises(ValueError, match="workers do not know StepFlow"):
        ss.generate(engine, QUESTIONS, flow=FLOW, progress=False)
    assert not engine.asked
    assert len(ss.generate(engine, QUESTIONS, progress=False)) == 2


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("Method 'stepflow_weights' is not implemented."),
        RuntimeError("Worker failed with error 'Method 'stepflow_weights' is not implemented.'"),
    ],
)
def test_a_missing_method_is_told_from_one_that_failed(engine, monkeypatch, error):
    def fails(raised: Exception) -> None:
        def call(method: str, *, args: tuple[Any, ...] = ()) -> list[Any]:
            raise raised

        monkeypatch.setattr(engine, "collective_rpc", call)

    fails(error)
    assert LoadedEngine(engine).facts["weights"] is None
    fails(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        LoadedEngine(engine).require_flows()


def test_an_engine_whose_attention_takes_no_edits_decodes_without_them_alone(engine):
    engine.other_backends = ["FLASHINFER"]
    with pytest.raises(ValueError, match="attention by FLASHINFER, which leaves out edits"):
        ss.generate(engine, QUESTIONS, flow=FLOW, progress=False)
    assert not engine.asked
    assert len(ss.generate(engine, QUESTIONS, progress=False)) == 2


def test_engines_of_two_lengths_are_two(model):
    short, long = (ScriptedEngine(model.tokenizer, []) for _ in range(2))
    long.model_config.max_model_len = 2048
    assert LoadedEngine(short).facts != LoadedEngine(long).facts
    long.model_config.max_model_len = 1024
    assert LoadedEngine(short).facts == LoadedEngine(long).facts


def test_an_engine_at_work_for_others_is_refused(engine):
    engine.add_request("another's", {"prompt_token_ids": [1]}, None)
    with pytest.raises(ValueError, match="requests of another caller"):
        ss.generate(engine, QUESTIONS, progress=False)
