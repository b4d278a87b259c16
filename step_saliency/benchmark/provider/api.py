"""The class that inspect-ai calls: ``--model step-saliency/MODEL -M flow=stepflow``.

Which numbers a response draws is said by seed, number of its question and sample, as in
`ss.generate`: the number is ``question_number`` of the sample's metadata, else its id where that is
a whole number, else a hash of the id; the sample is the epoch less one. So epochs are the samples
of one `ss.generate` with ``n``, with any flow and in any order. Where the assistant has spoken
already, the seed is derived from its words too, so that no numbers are drawn twice.

A conversation that ends in words of the assistant is gone on with: they are the first of the
response. Words, lengths and seeds of many such requests differ, and one call decodes them all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
from inspect_ai.log._samples import sample_active
from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput

from step_saliency.benchmark.provider.frame import Frame, to_go_on_from
from step_saliency.benchmark.provider.output import full_context, output_of
from step_saliency.benchmark.provider.queue import Waiting
from step_saliency.benchmark.provider.requests import Group, Request
from step_saliency.benchmark.provider.room import NoRoomError
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.decoding.continuation import Continuation
from step_saliency.options import Decoding

UNREAD = (
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "prompt_logprobs",
    "num_choices",
    "best_of",
    "response_schema",
    "reasoning_tokens",
    "reasoning_mode",
    "verbosity",
    "effort",
    "modalities",
    "extra_body",
)
"""Options of a request that would change it and that are not taken."""
DONE_ANYWAY = {"num_choices": (None, 1), "best_of": (None, 1), "reasoning_tokens": (None,)}
"""Values that ask for nothing, of options of which these are others than none or 0."""
LONGEST_PAUSE = 0.5


class StepSaliencyAPI(ModelAPI):
    """Models decoded by `ss.generate`, with or without a flow.

    Args:
        model_name: Bundled name, folder, GGUF file or hub id.
        base_url: Not used.
        api_key: Not used.
        config: Defaults of requests.
        model_args: Fields of `ProviderSettings`.

    Raises:
        ValueError: an unknown option or value.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        self.settings = ProviderSettings.of(model_args)
        config = config or GenerateConfig()
        # inspect-ai would begin with 20 requests at a time, which is less than one batch.
        if config.max_connections is None and config.adaptive_connections is None:
            config.max_connections = self.settings.requests_per_call
        super().__init__(model_name, base_url, api_key, [], config)
        self._waiting = Waiting(model_name, self.settings)
        self._model_facts: tuple[tuple[str, Any], ...] | None = None

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002
        tools: Sequence[Any],
        tool_choice: Any,  # noqa: ARG002
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer one conversation; those that are asked at the same time are decoded together."""
        if tools:
            raise ValueError("step-saliency models take no tools")
        await anyio.to_thread.run_sync(self._model)
        request = self._request(input, config)
        future = self._waiting.ask(request)
        pause = 0.01
        while not future.done():
            await anyio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)
        try:
            answer = future.result()
        except NoRoomError:
            return full_context(request, model=self.model_name)
        tokenizer = self._waiting.weights.tokenizer
        return output_of(request, answer, model=self.model_name, tokenizer=tokenizer)

    def max_tokens(self) -> int:
        """Length of a response where none is asked for."""
        return Decoding().max_new_tokens

    def max_connections(self) -> int:
        """Requests at a time: those of one call."""
        return self.settings.requests_per_call

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text, by the model's own tokenizer."""
        weights = await anyio.to_thread.run_sync(lambda: self._waiting.weights)
        return len(weights.tokenizer(text, add_special_tokens=False)["input_ids"])

    def connection_key(self) -> str:
        """What shares that number: the model under this flow."""
        return f"{self.model_name} {self.settings}"

    def collapse_user_messages(self) -> bool:
        """Two messages of the user in a row are one, as chat templates expect."""
        return True

    def _model(self) -> tuple[tuple[str, Any], ...]:
        """What tells this model from others, in JSON types; reads the weights."""
        if self._model_facts is None:
            facts = {"name": self.model_name, **self._waiting.weights.facts}
            self._model_facts = tuple(facts.items())
        return self._model_facts

    def _request(self, messages: Sequence[ChatMessage], config: GenerateConfig) -> Request:
        options = self.settings.template_options
        if config.reasoning_effort is not None:
            options["reasoning_effort"] = config.reasoning_effort
        turns, written = to_go_on_from(
            [{"role": message.role, "content": message.text} for message in messages]
        )
        frame, question = Frame.of(
            self._waiting.weights.tokenizer,
            turns,
            template_options=options,
            date=self.settings.date,
        )
        task, number, sample = _place(question)
        spoken = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        decoding = self._decoding(config, _seed(config.seed or 0, spoken))
        continued = None
        if written:
            seed = _seed(config.seed or 0, [*spoken, written])
            limit = decoding.max_new_tokens
            continued = Continuation(written=written, max_new_tokens=limit, seed=seed)
            decoding = replace(decoding, max_new_tokens=Decoding().max_new_tokens)
        group = Group(
            frame=frame,
            decoding=decoding,
            changes=tuple(self.settings.changes.items()),
            model=self._model(),
            task=task,
        )
        return Request(group, question, number, sample, continued)

    def _decoding(self, config: GenerateConfig, seed: int) -> Decoding:
        unread = [name for name in UNREAD if _asks(config, name)]
        if unread:
            raise ValueError(f"step-saliency models do not take {', '.join(unread)}")
        given = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
            "max_new_tokens": config.max_tokens,
            "stop_texts": None if config.stop_seqs is None else tuple(config.stop_seqs),
        }
        return Decoding(
            seed=seed,
            batch_size=self.settings.batch_size,
            format=self.settings.format,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )


def _asks(config: GenerateConfig, name: str) -> bool:
    """Whether an option of a request asks for something that is not done."""
    return getattr(config, name, None) not in DONE_ANYWAY.get(name, (None, {}, [], 0))


def _seed(seed: int, spoken: Sequence[str]) -> int:
    """The seed, or one derived from it where the assistant has spoken already."""
    return _hashed("\0".join([str(seed), *spoken])) if spoken else seed


def _place(question: str) -> tuple[str, int, int]:
    """Task, number of the question and sample of what is asked at the moment."""
    active = sample_active()
    if active is None:
        return "", _hashed(question), 0
    return active.task, number_of(active.sample.id, active.sample.metadata), active.epoch - 1


def number_of(id: Any, metadata: Mapping[str, Any] | None) -> int:  # noqa: A002
    """What stands for a sample in the seeds.

    Args:
        id: Id of the sample.
        metadata: Its metadata; ``question_number`` wins.
    """
    number = (metadata or {}).get("question_number", id)
    is_number = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    return number if is_number else _hashed(str(id))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
