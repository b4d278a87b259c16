"""Prompts that begin alike are read once: same logits, same texts, fewer tokens read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from test_fast import assert_equal_counters, responses, strong_flow
from tiny import Arch, tiny_model, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency.decoding import prompts as prompts_module
from step_saliency.decoding import readers
from step_saliency.decoding.continuation import Continuation
from step_saliency.decoding.hooked import BridgeReader
from step_saliency.decoding.prompts import common_beginning, worth_reading
from step_saliency.decoding.readers import TransformersReader
from step_saliency.decoding.rows import left_padded
from step_saliency.intervene import StepMomentumInjection
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.fast import fast_session
from step_saliency.intervene.heads import HeadScale

SYSTEM = "There are 5 apples. Then add 3 to the number of apples to get 8. " * 4
QUESTIONS = ["a b c", "What is 3 and 4?", "So what is the rest of it, then?", "x", "Then 5."]
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 24,
    "progress": False,
    "format": "think",
    "stop_tokens": range(60, 80),
    "method": "fast",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    models: dict[Arch, Any] = {}

    def load(arch: Arch) -> Any:
        if arch not in models:
            folder = tmp_path_factory.mktemp(arch)
            tiny_transformers(arch, window=16).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            models[arch] = ss.load_model(folder)
        return models[arch]

    return load


@contextmanager
def tokens_read(monkeypatch: pytest.MonkeyPatch, *, shared: bool = True) -> Iterator[list[int]]:
    """Tokens of every pass that reads prompts, padding included; sharing can be put off."""
    seen: list[int] = []
    read = TransformersReader._pass

    def noted(self: Any, tokens: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if tokens.shape[1] > 1:
            seen.append(tokens.numel())
        return read(self, tokens, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersReader, "_pass", noted)
        if not shared:
            patch.setattr(TransformersReader, "_shares_prompts", False)
        yield seen


def prompts_of(lengths: Sequence[int], n_alike: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(4, 200, (n_alike,), generator=generator).tolist()
    rests = [
        torch.randint(4, 200, (length - n_alike,), generator=generator).tolist()
        for length in lengths
    ]
    return [[*start, 200 + i, *rest[1:]] for i, rest in enumerate(rests)]


@pytest.mark.parametrize("arch", ["qwen2", "llama", "gpt_oss", "gemma3"])
def test_logits_and_cache_are_those_of_whole_prompts(arch: Arch) -> None:
    """In float64: three batches of one reader, later ones begin as the first did or shorter."""
    model = tiny_transformers(arch, window=16).double().eval()
    model.set_attn_implementation("sdpa" if arch != "gpt_oss" else "eager")
    reader = TransformersReader(model, keep_all=True)
    batches = [
        prompts_of([190, 150, 150, 170], 140),
        [*prompts_of([160, 141], 140), prompts_of([160], 140)[0]],
        [prompts_of([150], 140)[0]],
        prompts_of([60, 20], 12),
    ]
    with torch.no_grad():
        for batch in batches:
            shared = reader.beside(len(batch))
            logits = shared.read_prompts(batch)
            for row, prompt in enumerate(batch):
                alone = TransformersReader(model, keep_all=True)
                whole = alone.read(torch.tensor([prompt]))[0]
                torch.testing.assert_close(logits[row], whole[-1], rtol=1e-9, atol=1e-9)
                for layer, own in zip(shared.cache.layers, alone.cache.layers, strict=True):
                    for kept, expected in zip(layer._columns, own._columns, strict=True):
                        held = kept.view[row, :, -len(prompt) :]
                        torch.testing.assert_close(held, expected.view[0], rtol=1e-9, atol=1e-9)
                following = torch.tensor([[7]])
                after = alone.read(following)[0, -1]
                assert torch.isfinite(after).all()
            again = shared.read(torch.full((len(batch), 1), 7))[:, -1]
            torch.testing.assert_close(again[-1], after, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss", "gemma3", "mistral"])
@pytest.mark.parametrize("with_flow", [False, True])
def test_texts_and_effects_are_those_of_each_alone(
    loaded: Any, arch: Arch, with_flow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(arch)
    flow = strong_flow() if with_flow else None
    options = {**OPTIONS, "system": SYSTEM, "temperature": 1.0, "flow": flow, "n": 2}
    with tokens_read(monkeypatch, shared=False) as whole:
        counted = ss.intervene.Effects()
        expected = responses(
            ss.generate(model, QUESTIONS, batch_size=8, effects=counted, **options)
        )
    with tokens_read(monkeypatch) as read:
        effects = ss.intervene.Effects()
        found = responses(ss.generate(model, QUESTIONS, batch_size=8, effects=effects, **options))
    assert found == expected
    if flow is not None:
        assert_equal_counters(effects, counted)
    has_windows = arch in ("mistral", "gpt_oss", "gemma3") and flow is None
    # samples of a question are one row; what questions begin with is one row too without windows
    assert sum(read) < (0.6 if has_windows else 0.45) * sum(whole)


@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_stands_before_edited_words_is_read_once(
    loaded: Any, arch: Arch, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thinking that is there already is edited while it is read, the prompt before it is not."""
    words = [
        "First add 3. Then add 4. So it is 7. ",
        "First add 3. ",
        "Add 3. Then 4.",
        "",
        "So 7. ",
    ]
    begun = [Continuation(written=text) for text in words]
    options = {**OPTIONS, "system": SYSTEM, "temperature": temperature, "flow": strong_flow()}
    options |= {"continued": begun, "batch_size": 3, "n": 2}
    with tokens_read(monkeypatch) as read:
        effects = ss.intervene.Effects()
        found = responses(ss.generate(loaded(arch), QUESTIONS, effects=effects, **options))
    with tokens_read(monkeypatch, shared=False) as whole:
        counted = ss.intervene.Effects()
        expected = responses(ss.generate(loaded(arch), QUESTIONS, effects=counted, **options))
    assert found == expected
    assert_equal_counters(effects, counted)
    plain = ss.generate(loaded(arch), QUESTIONS, **{**options, "flow": None})
    assert responses(plain) != expected
    assert sum(read) < 0.5 * sum(whole)


@pytest.mark.parametrize("flow", ["residual", "anywhere"])
def test_a_prompt_that_an_edit_reads_or_acts_in_is_read_whole(
    loaded: Any, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits: dict[str, Any] = {
        "residual": StepMomentumInjection([1, 2], alpha=0.5, space="residual", source="resid_post"),
        "anywhere": HeadScale([(1, 0)], 0.0),
    }
    begun = [Continuation(written="First add 3. Then add 4. So it is 7. ")] * len(QUESTIONS)
    options = {**OPTIONS, "system": SYSTEM, "temperature": 0.0, "flow": edits[flow]}
    with tokens_read(monkeypatch) as read:
        found = responses(
            ss.generate(loaded("qwen2"), QUESTIONS, continued=begun, batch_size=8, **options)
        )
    with tokens_read(monkeypatch, shared=False) as whole:
        expected = responses(
            ss.generate(loaded("qwen2"), QUESTIONS, continued=begun, batch_size=8, **options)
        )
    assert read == whole
    assert found == expected


def test_idle_positions_end_where_a_row_is_edited(loaded: Any) -> None:
    """Rows of two lengths: the first column in which one of them thinks."""
    tokenizer = loaded("qwen2").tokenizer
    prompts = [tokenizer.encode("a b c<think>"), tokenizer.encode("So what is it then?<think>")]
    written = [tokenizer.encode("Add 3 and 4."), tokenizer.encode("So")]
    rows = [prompt + words for prompt, words in zip(prompts, written, strict=True)]
    tokens, mask = left_padded(rows, torch.device("cpu"))
    reference = tiny_transformers("qwen2")
    with fast_session(reference, strong_flow().edits, tokenizer) as session:
        lengths = [len(prompt) for prompt in prompts]
        session.expect(ExpectedRows(n_prompt=lengths, format="think"))
        session.read(tokens, mask.bool(), n_past=0)
        longest = tokens.shape[1]
        starts = [longest - len(words) for words in written]
        assert session.n_idle == min(starts)
        assert session.n_idle < max(starts)
        assert not session.is_idle
        with session.unedited():
            assert session.is_idle
        assert not session.is_idle


def test_what_pays() -> None:
    assert common_beginning([(1, 2, 3), (1, 2, 4, 5), (1, 2)]) == 2
    assert common_beginning([(1, 2)]) == 2
    assert common_beginning([(), (1,)]) == 0
    start = tuple(range(prompts_module.LEAST_SAVED))
    assert worth_reading([(*start, 1), (*start, 2)], 0) == len(start)
    assert worth_reading([(*start, 1), (*start, 2)], 1) == 0
    assert worth_reading([start, start], 0) == 0, "something is left to be read"
    assert worth_reading([(*start, 1)], 0) == 0
    assert worth_reading([(*start, *start, 1)] * 3, 0, most=len(start)) == len(start)
    assert worth_reading([(*start, 1)] * 3, 0, most=7) == 0


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_rows_are_unembedded_together(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch folds rows into one product only where they are dense; otherwise it copies weights."""
    model = tiny_transformers(arch).eval()
    head = model.get_output_embeddings()
    strides: list[bool] = []
    head.register_forward_hook(lambda _, args, __: strides.append(args[0].is_contiguous()))
    prompts = [[5, 6, 7, 8], [6, 7, 8], [9, 5, 6, 7, 4]]
    with torch.no_grad():
        together = TransformersReader(model).read_prompts(prompts)
        monkeypatch.setattr(readers, "unembedding_at_once", lambda *_: nullcontext())
        apart = TransformersReader(model).read_prompts(prompts)
    torch.testing.assert_close(together, apart)
    assert not head._forward_pre_hooks
    assert strides == [True, False], "without it, what is cut out of rows is not dense"


def test_a_bridge_unembeds_rows_together_too() -> None:
    model = tiny_model("qwen2", backend="bridge")
    linear = next(
        module
        for name, module in model.original_model.named_modules()
        if name.startswith("lm_head") and isinstance(module, torch.nn.Linear)
    )
    strides: list[bool] = []
    linear.register_forward_hook(lambda _, args, __: strides.append(args[0].is_contiguous()))
    with torch.no_grad():
        BridgeReader(model, keep_all=False).read_prompts([[5, 6, 7], [6, 7], [9, 5, 6]])
    assert strides == [True]
