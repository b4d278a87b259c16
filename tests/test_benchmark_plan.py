"""What a run will take: jobs, memory, speed, hours; and the settings that models are asked with."""

import math
from pathlib import Path
from typing import Any

import pytest

from step_saliency.benchmark.command.plan import EDITED, make_plan, pass_seconds
from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.presets import OTHERS, PRESETS, preset_of

ROOT = Path(__file__).parents[1]
R1 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def settings_of(**changes: Any) -> BenchmarkSettings:
    return BenchmarkSettings(**{"model": R1, "suites": ("aime24",), **changes})


def test_presets() -> None:
    r1 = preset_of(R1)
    assert (r1.temperature, r1.top_p, r1.system, r1.max_tokens) == (0.6, 0.95, None, 32_768)
    assert preset_of("/models/deepseek_r1_distill_qwen_32B").published == "R1-Distill-Qwen-32B"
    assert preset_of("openai/gpt-oss-20b").reasoning_effort == "medium"
    assert preset_of("Qwen/QwQ-32B").top_k == 40
    assert preset_of("some/model") is OTHERS
    assert preset_of("/runs/gpt-oss-20b/SmolLM2-135M").name == "smollm2"
    assert preset_of("/hub/DeepSeek-R1-Distill-Qwen-7B/snapshots/1a2b").published is not None
    for name in ("reasoner", "reporter"):
        assert preset_of(name).name == preset_of(f"/folder/{name}/").name == name
    assert preset_of("some/other-reasoner-7b") is OTHERS
    assert all(preset.source for preset in PRESETS)
    assert settings_of(temperature=0.2).preset.temperature == 0.2


def test_plans_count_jobs_and_memory() -> None:
    plan = make_plan(settings_of(suites=("aime24", "gpqa_diamond")))
    jobs = plan.jobs.set_index(["suite", "condition"])
    assert jobs.loc[("aime24", "baseline"), "responses"] == 30 * 16
    assert jobs.loc[("gpqa_diamond", "smi"), "responses"] == 198 * 8
    assert plan.weights_gb == pytest.approx(15.2)
    # keys and values of a token: 2 x 28 layers x 4 heads x 128 x 2 bytes
    each = 2 * 28 * 4 * 128 * 2
    assert plan.longest_cache_gb == pytest.approx(each * 64 * (32_768 + 300) / 1e9)
    slower = jobs.loc[("aime24", "stepflow"), "hours"] / jobs.loc[("aime24", "baseline"), "hours"]
    assert slower == pytest.approx(EDITED)
    assert "AIME" not in str(plan)
    assert "aime24" in str(plan)


def test_the_speed_of_a_plan_is_that_of_a_card() -> None:
    """Tokens a second of 32 rows of R1's shape, by the formula and as they were measured."""
    page = (ROOT / "benchmarks/results/qwen2-7b-cuda.md").read_text()
    assert "on NVIDIA H200" in page
    assert "Batch 32" in page
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    measured = {row[1]: float(row[3]) for row in cells if row[1:2] in (["fast"], ["StepFlow"])}
    shape = preset_of(R1).shape
    plain = 32 / pass_seconds(shape, 2, 32, 200, bandwidth=4.8e12)
    assert plain == pytest.approx(measured["fast"], rel=0.15)
    assert plain / EDITED == pytest.approx(measured["StepFlow"], rel=0.15)


def test_a_plan_says_what_does_not_fit_and_what_workers_bring() -> None:
    plan = make_plan(settings_of(batch_size=32), workers=8)
    assert plan.notes == ("sizes of the model are those of its preset",)
    whole = plan.jobs["hours"].sum()
    assert f"hours      {whole:.1f} on one card" in str(plan)
    assert f"{whole / 8:.1f} with 8 workers" in str(plan)
    large = make_plan(settings_of(batch_size=64))
    (note,) = [note for note in large.notes if "memory" in note]
    rows = int(note.split("--batch-size ")[1].split()[0])
    assert make_plan(settings_of(batch_size=rows)).notes == plan.notes
    assert len(make_plan(settings_of(batch_size=rows + 1)).notes) == 2
    larger = make_plan(settings_of(model=R1.replace("7B", "32B"), batch_size=16))
    assert "--device-map auto over 3 cards" in str(larger)


def test_a_plan_counts_the_longest_condition_and_says_what_an_engine_cuts() -> None:
    plain, longer = (
        make_plan(settings_of(conditions=names))
        for names in (("baseline",), ("baseline", "longer"))
    )
    more = (2 * 32_768 + 300) / (32_768 + 300)
    assert longer.longest_cache_gb == pytest.approx(more * plain.longest_cache_gb)
    cut = make_plan(
        settings_of(conditions=("baseline", "longer"), engine="vllm", max_length=34_000)
    )
    (note,) = [note for note in cut.notes if "--max-length" in note]
    assert "--max-length 34000 cuts responses under longer;" in note
    assert cut.longest_cache_gb == pytest.approx(plain.longest_cache_gb * 34_000 / (32_768 + 300))


def test_a_plan_advises_what_the_engine_takes() -> None:
    large = settings_of(model=R1.replace("7B", "32B"), batch_size=16, engine="vllm")
    (note,) = [note for note in make_plan(large).notes if "memory" in note]
    assert "--tensor-parallel 3" in note
    assert "--device-map" not in note
    fits = make_plan(settings_of(**{**vars(large), "tensor_parallel": 3}))
    assert not [note for note in fits.notes if "memory" in note]


def test_hours_of_the_page_are_those_of_the_plan() -> None:
    page = (ROOT / "docs/howto/benchmarks.md").read_text()
    lines = [
        line.split("|") for line in page.splitlines() if "--batch-size" in line and "|" in line
    ]
    assert len(lines) == 5
    for _, model, _, options, hours, _ in lines:
        words = options.strip(" `").split()
        given = {name: words[words.index(name) + 1] for name in words if name.startswith("--")}
        workers = int(given.get("--workers", 1))
        name = model.split(",")[0].strip()
        settings = BenchmarkSettings(model=name, batch_size=int(given["--batch-size"]))
        plan = make_plan(settings, workers=workers)
        assert float(hours) == pytest.approx(plan.jobs["hours"].sum() / workers, rel=0.03)
        if "--device-map" not in given:
            assert len(plan.notes) == 1


def test_a_plan_reads_the_config_of_a_folder() -> None:
    plan = make_plan(settings_of(model="reasoner", suites=("reasoner",)))
    assert plan.jobs["problems"].tolist() == [40] * 4
    assert 0 < plan.weights_gb < 0.1
    unknown = make_plan(settings_of(model="./nowhere", suites=("reasoner",)))
    assert math.isnan(unknown.weights_gb)
    shown = dict(line.split(maxsplit=1) for line in str(unknown).splitlines() if line)
    assert all("unknown" in shown[name] for name in ("memory", "speed", "hours"))


def test_settings_of_the_page_are_those_of_the_presets() -> None:
    page = (ROOT / "docs/howto/benchmarks.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    shown = {row[1].split("`")[1]: row for row in rows if row[1:2] and row[-2].count("README")}
    shown |= {row[1].split("`")[1]: row for row in rows if row[1:2] == ["`qwq-32b`"]}
    assert set(shown) == {"r1-distill-qwen-7b", "qwq-32b", "gpt-oss-20b", "smollm2"}
    for name, row in shown.items():
        preset = preset_of(name)
        temperature, top_p, top_k, longest, system, effort, source = row[2:9]
        assert float(temperature) == preset.temperature
        assert float(top_p) == preset.top_p
        assert top_k == str(preset.top_k or "-")
        assert int(longest.replace(",", "")) == preset.max_tokens
        assert system == str(preset.system or "none")
        assert effort == str(preset.reasoning_effort or "-")
        assert source.split(" (")[0].split(";")[0] in preset.source
