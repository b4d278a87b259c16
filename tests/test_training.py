"""Training from scratch, resuming, the data stream and the reasoner's tokenizer."""

import csv
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from step_saliency.tasks import LEVELS, REPORT_LEVELS, Difficulty, make_problems
from step_saliency.tasks.graph import Graph, draw_graph
from step_saliency.tasks.report.drawing import draw_report
from training import data, reports
from training.curricula import CURRICULA, report_tokenizer
from training.data import IGNORED, batches_from, collate, draw_difficulty, encode, make_pool
from training.model import TrainConfig, build_model
from training.optimizers import learning_rate
from training.stacked_muon import StackedMuon
from training.tokenizer import build_tokenizer
from training.train import train

TOKENIZER = build_tokenizer()
TINY = TrainConfig(
    steps=12,
    batch_size=8,
    n_layers=2,
    d_model=32,
    d_mlp=64,
    warmup=2,
    decay=0.5,
    bfloat16=False,
    checkpoint_every=4,
    log_every=1,
    held_out_every=0,
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def log_rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("optimizer", "task"),
    [("muon", "reasoner"), ("adamw", "reasoner"), ("stacked-muon", "reporter")],
)
def test_loss_falls_from_scratch(optimizer, task, tmp_path):
    changed = {"steps": 40, "lr": 1e-2, "optimizer": optimizer, "task": task}
    train(replace(TINY, **changed), tmp_path)
    losses = [float(row["loss"]) for row in log_rows(tmp_path)]
    assert losses[0] == pytest.approx(torch.tensor(float(len(TOKENIZER))).log().item(), rel=0.05)
    assert sum(losses[-5:]) / 5 < losses[0] - 2


def test_matrices_in_a_stack_are_updated_like_single_ones():
    shapes = [(16, 16), (8, 16), (16, 40), (40, 16), (16, 16), (8, 16)]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    options = {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    single, stacked = ([torch.nn.Parameter(m.clone()) for m in start] for _ in range(2))
    optimizers = torch.optim.Muon(single, **options), StackedMuon(stacked, **options)
    for _ in range(4):
        for a, b in zip(single, stacked, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(single, stacked, start, strict=True):
        moved = (a - before).norm()
        assert (a - b).norm() < 0.01 * moved
        assert moved > 0.01


def test_snapshots_are_kept_beside_the_checkpoint(tmp_path):
    run = train(replace(TINY, snapshot_every=6), tmp_path)
    assert sorted(file.name for file in tmp_path.glob("weights-*")) == [
        "weights-12.pt",
        "weights-6.pt",
    ]
    last = torch.load(tmp_path / "weights-12.pt")
    assert all(torch.equal(w, last[name]) for name, w in run.model.state_dict().items())
    early = torch.load(tmp_path / "weights-6.pt")
    assert any(not torch.equal(w, early[name]) for name, w in last.items())


@pytest.mark.usefixtures("one_thread")
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = train(TINY, tmp_path / "whole")
    killed = train(TINY, tmp_path / "killed", stop_at=10)
    assert killed.step == 10
    resumed = train(TINY, tmp_path / "killed")
    assert resumed.step == whole.step == TINY.steps
    assert resumed.tokens == whole.tokens
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    logged = [
        [(row["step"], row["lr"], row["loss"]) for row in log_rows(tmp_path / folder)]
        for folder in ("whole", "killed")
    ]
    assert logged[0] == logged[1]


def test_a_finished_run_is_left_alone(tmp_path):
    first = train(TINY, tmp_path).model.state_dict()
    again = train(TINY, tmp_path).model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert len(log_rows(tmp_path)) == TINY.steps


def test_a_time_limit_fixes_the_number_of_steps(tmp_path):
    config = TrainConfig(**{**vars(TINY), "steps": None, "hours": 1e-9})
    run = train(config, tmp_path)
    assert run.total_steps == run.step == 2


def test_a_run_needs_an_end(tmp_path):
    with pytest.raises(ValueError, match="steps=None and hours=None"):
        train(TrainConfig(), tmp_path)


def test_schedule_warms_up_stays_and_decays_to_nothing():
    config = TrainConfig(lr=1.0, warmup=4, decay=0.25)
    rates = [learning_rate(step, config, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:16] == [1.0] * 12
    assert rates[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0], abs=0.21)
    assert rates[-1] == 0.0
    assert learning_rate(10**6, config, None) == 1.0


def test_the_stream_resumes_anywhere():
    options = {"seed": 3, "batch_size": 2}
    stream = batches_from(TOKENIZER, start=0, **options)
    whole = [next(stream) for _ in range(data.POOL_BATCHES + 3)]
    for start in (0, 5, data.POOL_BATCHES, data.POOL_BATCHES + 2):
        batch = next(batches_from(TOKENIZER, start=start, **options))
        assert torch.equal(batch.ids, whole[start].ids)
        assert torch.equal(batch.labels, whole[start].labels)


def test_processes_make_the_same_stream():
    curriculum = CURRICULA["reporter"]
    options = {"seed": 3, "batch_size": 2, "start": 5, "draw": curriculum.draw}
    tokenizer = curriculum.tokenizer()
    here, ahead = (batches_from(tokenizer, **options, workers=n) for n in (0, 1))
    for _ in range(data.POOL_BATCHES):
        expected, found = next(here), next(ahead)
        assert torch.equal(found.ids, expected.ids)
        assert torch.equal(found.labels, expected.labels)
        assert found.n_tokens == expected.n_tokens
    ahead.close()


def test_labels_are_the_response_and_nothing_else():
    problem = make_problems(n=1)[0]
    (example,) = encode(TOKENIZER, [(problem.question, problem.solution)])
    batch = collate([example, encode(TOKENIZER, [("x" * 300, "y")])[0]], TOKENIZER.pad_token_id)
    learnt = batch.ids[0][batch.labels[0] != IGNORED]
    assert TOKENIZER.decode(learnt) == problem.solution + "<|eos|>"
    assert TOKENIZER.decode(example.ids[: example.n_prompt]) == problem.prompt(TOKENIZER)
    assert TOKENIZER.decode(batch.ids[1][batch.labels[1] != IGNORED]) == "y<|eos|>"


def canonical(graph: Graph) -> tuple:
    """The needed computation without names, distractors or order of the question."""
    rank = {name: i for i, name in enumerate(graph.order)}

    def operand(value):
        return ("step", rank[value]) if isinstance(value, str) else value

    return tuple(
        (operand(graph[name].left), graph[name].op, operand(graph[name].right))
        for name in graph.order
    )


def test_training_never_sees_a_test_problem(monkeypatch):
    drawn: list[Graph] = []

    def spy(*args):
        drawn.append(draw_graph(*args))
        return drawn[-1]

    monkeypatch.setattr(data, "draw_graph", spy)
    for pool in (0, 1, 200):
        make_pool(TOKENIZER, seed=0, pool=pool, batch_size=12)
    trained = {canonical(graph) for graph in drawn}
    tested = {
        canonical(problem.graph)
        for level in ("easy", "medium", "hard")
        for problem in make_problems(n=30, level=level)
    }
    short = Difficulty(n_steps=2, n_distractors=0, digits=1)
    tested |= {canonical(problem.graph) for problem in make_problems(n=30, level=short)}
    assert len(drawn) == 3 * 16 * 12
    assert not trained & tested
    assert {graph.split for graph in drawn} == {"train"}


def test_the_reporter_is_trained_on_its_own_split(monkeypatch):
    drawn = []

    def spy(*args):
        drawn.append(draw_report(*args))
        return drawn[-1]

    monkeypatch.setattr(reports, "draw_report", spy)
    tokenizer = report_tokenizer()
    for pool in (0, 200):
        draw = CURRICULA["reporter"].draw
        make_pool(tokenizer, seed=0, pool=pool, batch_size=6, draw=draw)
    assert len(drawn) == 2 * data.POOL_BATCHES * 6
    assert {graph.split for graph in drawn} == {"train"}


def test_the_reporter_s_training_covers_more_than_its_hardest_level():
    rng = random.Random(0)
    drawn = [reports.draw_difficulty(rng, 1000) for _ in range(2000)]
    for dial in ("n_steps", "n_distractors", "digits", "n_values", "gap"):
        hardest = max(getattr(level, dial) for level in REPORT_LEVELS.values())
        assert max(getattr(difficulty, dial) for difficulty in drawn) >= hardest


def test_reports_fit_the_context_and_come_back():
    tokenizer = report_tokenizer()
    for problem in make_problems(n=20, level="hard", family="report"):
        text = problem.prompt(tokenizer) + problem.solution
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert len(ids) < tokenizer.model_max_length


def test_training_covers_more_than_the_hardest_level():
    rng = random.Random(0)
    drawn = [draw_difficulty(rng, 1000) for _ in range(2000)]
    for dial in ("n_steps", "n_distractors", "digits"):
        hardest = max(getattr(level, dial) for level in LEVELS.values())
        assert max(getattr(difficulty, dial) for difficulty in drawn) >= hardest
    assert max(d.n_steps for d in drawn) > LEVELS["hard"].n_steps


@settings(deadline=None)
@given(st.text())
def test_any_text_encodes_and_comes_back(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= i < len(TOKENIZER) for i in ids)


def test_digits_and_signs_are_tokens_of_their_own():
    ids = TOKENIZER("-123+45=p has 6 points\n", add_special_tokens=False)["input_ids"]
    tokens = TOKENIZER.convert_ids_to_tokens(ids)
    assert tokens == [*"-123+45=p", " has ", "6", " points", "Ċ"]


def test_the_tokenizer_survives_saving(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    build_model(TINY, TOKENIZER).config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    problem = make_problems(n=1, family="words")[0]
    text = problem.prompt(TOKENIZER) + problem.solution + "<|eos|>"
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert problem.prompt(loaded) == problem.prompt(TOKENIZER)
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert "<think>" in loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True)


def test_the_chat_template_drops_earlier_thinking():
    messages = [
        {"role": "user", "content": "i=3; ?i"},
        {"role": "assistant", "content": "<think>\ni=3\n</think>\n\nThe answer is 3."},
        {"role": "user", "content": "j=4; ?j"},
    ]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|bos|><|user|>i=3; ?i<|assistant|>The answer is 3.<|eos|>"
        "<|user|>j=4; ?j<|assistant|><think>\n"
    )
