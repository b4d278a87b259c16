"""What stands around a question: the texts that the chat template writes, to the letter."""

from collections.abc import Mapping
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from step_saliency.benchmark.provider.frame import Frame, to_go_on_from
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.benchmark.provider.weights import Weights, weights_for
from step_saliency.segment.build import prompt_tokens


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_for("reasoner", ProviderSettings())


ODD = "He said \"{{ x }}\" {% raw %} \\n \\boxed{1} ünï 😀 '''\n  end "


class Template:
    """A tokenizer with a template, and nothing else."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        self.tokenizer = tokenizer
        self.chat_template = template

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        return str(
            self.tokenizer.apply_chat_template(turns, chat_template=self.chat_template, **options)
        )


CHAT = (
    "{{ '<s>' }}{% if effort is defined %}{{ '[' + effort + ']' }}{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.mark.parametrize("question", ["What is 2+2?", ODD, "line\nline"])
def test_frames_write_what_the_template_writes(weights: Weights, question: str) -> None:
    tokenizer = Template(weights.tokenizer, CHAT)
    turns = [
        {"role": "system", "content": ODD},
        {"role": "user", "content": "first " + ODD},
        {"role": "assistant", "content": "an answer"},
        {"role": "user", "content": question},
    ]
    frame, asked = Frame.of(tokenizer, turns, template_options={"effort": "high"})
    framed = frame.tokenizer(tokenizer)
    written = framed.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    whole = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, effort="high"
    )
    assert written == whole
    assert "[high]" in written
    assert tokenizer.chat_template == CHAT


def test_a_single_question_has_the_tokens_of_generate(weights: Weights) -> None:
    for question in ("a=1. b=a+2. b?", "x" + ODD):
        frame, asked = Frame.of(weights.tokenizer, [{"role": "user", "content": question}])
        ours = prompt_tokens(frame.tokenizer(weights.tokenizer), asked)
        assert ours == prompt_tokens(weights.tokenizer, question)


def test_going_on_from_the_assistant(weights: Weights) -> None:
    tokenizer = Template(weights.tokenizer, CHAT)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>so far"}]
    asked, written = to_go_on_from(turns)
    assert (asked, written) == (turns[:1], "<think>so far")
    assert Frame.of(tokenizer, asked)[0].suffix.endswith("<assistant>")
    assert to_go_on_from(asked) == (asked, "")
    with pytest.raises(ValueError, match="has to be the user's"):
        Frame.of(tokenizer, turns)


@pytest.mark.parametrize(
    ("turns", "match"),
    [
        ([{"role": "system", "content": "s"}], "has to be the user's"),
        ([], "has to be the user's"),
    ],
)
def test_conversations_that_are_refused(
    weights: Weights, turns: list[Mapping[str, str]], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Frame.of(weights.tokenizer, turns)
    changing = Template(weights.tokenizer, "{{ messages[-1].content | upper }}")
    with pytest.raises(ValueError, match="does not write the last message"):
        Frame.of(changing, [{"role": "user", "content": "question"}])
    plain = Template(weights.tokenizer, None)
    two = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    with pytest.raises(ValueError, match="no chat template"):
        Frame.of(plain, two)
