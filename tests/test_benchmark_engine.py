"""`step-saliency benchmark --engine vllm`: options, and the run itself where vLLM is installed."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.provider import engine
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.cli import main
from step_saliency.storage.lines import read_lines
from step_saliency.storage.traces import read_trace

HAS_VLLM = importlib.util.find_spec("vllm") is not None
HAS_INSPECT = importlib.util.find_spec("inspect_ai") is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fastest"}, "engine='fastest' is unknown"),
        ({"tensor_parallel": 2}, "tensor_parallel=2 needs engine='vllm'"),
        ({"max_length": 500}, "max_length=500 needs engine='vllm'"),
        ({"engine": "vllm", "tensor_parallel": 0}, "tensor_parallel=0 is below 1"),
        ({"engine": "vllm", "max_length": 0}, "max_length=0 is below 1"),
        ({"engine": "vllm", "device": "cuda"}, "device='cuda': a vLLM engine places"),
        ({"engine": "vllm", "device_map": "auto"}, "device_map='auto': a vLLM engine places"),
        ({"engine": "vllm", "dtype": "float64"}, "none of vLLM's"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProviderSettings.of(options)
    with pytest.raises(ValueError, match=message):
        BenchmarkSettings(model="reasoner", suites=("reasoner",), **options)


def test_the_command_says_them_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "reasoner", "--suites", "reasoner", "--out", str(tmp_path)]
    assert main(["benchmark", *words, "--tensor-parallel", "2"]) == 2
    assert "tensor_parallel=2 needs engine='vllm'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at what a CPU is asked for")
def test_an_engine_on_a_cpu_leaves_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(engine, "free_bytes", lambda _: 6000)
    settings = ProviderSettings(engine="vllm")
    assert engine.engine_options(settings)["kv_cache_memory_bytes"] == 3000
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert "kv_cache_memory_bytes" not in engine.engine_options(settings)


@pytest.mark.skipif(not HAS_INSPECT, reason="needs inspect-ai")
@pytest.mark.parametrize(
    ("options", "gpus"), [({"engine": "vllm", "tensor_parallel": 4}, 4), ({}, 1)]
)
def test_ray_gives_a_worker_all_cards_of_its_engine(
    options: Any, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from step_saliency.benchmark.scale import spread

    asked: dict[str, Any] = {}

    def remote(**given: Any) -> Any:
        asked.update(given)
        return lambda worker: None

    ray = SimpleNamespace(cluster_resources=lambda: {"GPU": 8.0}, remote=remote)
    monkeypatch.setattr(spread, "open_units", lambda *_: [])
    settings = BenchmarkSettings(model="reasoner", suites=("reasoner",), **options)
    spread._on_actors(ray, tmp_path, settings, 0, progress=False)
    assert asked["num_gpus"] == gpus


@pytest.mark.skipif(HAS_VLLM or not HAS_INSPECT, reason="needs inspect-ai, and no vLLM")
def test_without_vllm_it_says_where_to_look() -> None:
    from step_saliency.benchmark.provider.weights import weights_for

    with pytest.raises(ValueError, match="wants an environment of its own"):
        weights_for("reasoner", ProviderSettings(engine="vllm"))


@pytest.mark.skipif(not (HAS_VLLM and HAS_INSPECT), reason="needs vLLM and inspect-ai")
def test_an_engine_answers_as_the_fast_loop_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }.items():
        monkeypatch.setenv(name, value)
    words = [
        *("--model", "reasoner", "--suites", "reasoner", "--conditions", "baseline,stepflow"),
        *("--samples", "2", "--problems", "4", "--temperature", "0", "--max-tokens", "100"),
        *("--batch-size", "8", "--tau-max", "0.5", "--alpha", "0.5", "--quiet"),
    ]
    by_loop, by_engine = tmp_path / "loop", tmp_path / "engine"
    assert main(["benchmark", *words, "--out", str(by_loop)]) == 0
    options = ["--engine", "vllm", "--max-length", "512"]
    assert main(["benchmark", *words, *options, "--out", str(by_engine)]) == 0
    expected, got = responses(by_loop), responses(by_engine)
    assert len(got) == 2 * 4 * 2
    assert expected.keys() == got.keys()
    n_equal = sum(expected[place] == got[place] for place in got)
    assert n_equal >= len(got) - 1, "rounding parts one at most"
    flows = {flow for flow, _, _ in got}
    by_flow = [{place[1:]: got[place] for place in got if place[0] == flow} for flow in flows]
    assert by_flow[0] != by_flow[1]
    assert "vllm" in (by_engine / "benchmark.json").read_text()


def responses(out: Path) -> dict[tuple[str, int, int], list[int]]:
    """Tokens by flow, question and sample."""
    found = {}
    for group in (out / "responses").iterdir():
        flow = (group / "group.json").read_text().split('"flow": "')[1].split('"')[0]
        for file in group.glob("*.jsonl"):
            for trace in map(read_trace, read_lines(file)):
                place = flow, trace.meta["question_index"], trace.meta["sample"]
                found[place] = trace.tokens.tolist()
    return found
