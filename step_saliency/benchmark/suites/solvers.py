"""What is asked, and words that are forced on the model.

    plain      one response
    forced     the end of the thinking is replaced by a text, so and so often, and the model goes on
               from there; a thinking that outgrows its budget is ended

Each part of a forced response is one request whose conversation ends in what the assistant has
written so far. Parts share one length: what one has written is taken from what is left. Parts of
many responses are decoded together, as far as they wait at the same time. A response that fills the
context ends there.
"""

from typing import Any

from inspect_ai.model import ChatMessageAssistant, GenerateConfig, ModelOutput, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

from step_saliency.benchmark.conditions import END_OF_THINKING, Condition, condition_of


@solver(name="ask")
def ask(condition: str = "baseline", max_tokens: int = 2048) -> Solver:
    """Ask for one response under a condition.

    Args:
        condition: Name of the condition.
        max_tokens: Length of the response.
    """
    of = condition_of(condition)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if of.forced is None:
            return await generate(state)
        writer = _Forced(state, of, max_tokens)
        state.output = await writer.write()
        state.messages.append(state.output.message)
        return state

    return solve


class _Forced:
    """A response in parts."""

    def __init__(self, state: TaskState, condition: Condition, length: int) -> None:
        self.state = state
        self.condition = condition
        self.left = length
        self.thinking = max(1, int(length * condition.budget)) if condition.budget else length
        self.written = ""
        self.opened = ""
        self.usage: list[Any] = []

    async def write(self) -> ModelOutput:
        assert self.condition.forced is not None
        for time in range(self.condition.times + 1):
            output = await self._part(min(self.thinking, self.left), stop=END_OF_THINKING)
            if output.stop_reason == "model_length":
                return self._whole(output)
            if END_OF_THINKING not in self.written or min(self.thinking, self.left) <= 0:
                break
            if time < self.condition.times:
                self.written = self.written.rpartition(END_OF_THINKING)[0] + self.condition.forced
        if END_OF_THINKING not in self.written and output.stop_reason != "stop" and self.left > 0:
            self.written += f"\n{END_OF_THINKING}\n\n"
        if self.left > 0 and END_OF_THINKING in self.written:
            output = await self._part(self.left, stop=None)
        return self._whole(output)

    async def _part(self, length: int, *, stop: str | None) -> ModelOutput:
        conversation = list(self.state.messages)
        if self.written:
            conversation.append(ChatMessageAssistant(content=self.written))
        config = GenerateConfig(max_tokens=length, stop_seqs=None if stop is None else [stop])
        output = await get_model().generate(conversation, config=config)
        facts = output.metadata or {}
        self.opened = self.opened or str(facts.get("opened", ""))
        self.written += str(facts.get("response", output.completion))
        used = output.usage.output_tokens if output.usage else length
        self.left -= used
        self.thinking -= used
        self.usage.append(output)
        return output

    def _whole(self, last: ModelOutput) -> ModelOutput:
        """The last part's output with the text and the usage of all."""
        _, mark, summary = self.written.partition(END_OF_THINKING)
        usage = last.usage
        if usage is not None:
            parts = [output.usage for output in self.usage if output.usage]
            read, written = parts[0].input_tokens, sum(part.output_tokens for part in parts)
            usage = usage.model_copy(
                update={
                    "input_tokens": read,
                    "output_tokens": written,
                    "total_tokens": read + written,
                    "reasoning_tokens": sum(part.reasoning_tokens or 0 for part in parts),
                }
            )
        calls = [(output.metadata or {}).get("call", {}) for output in self.usage]
        seconds = [call["seconds"] for call in calls if "seconds" in call]
        metadata = {
            **(last.metadata or {}),
            "response": self.written,
            "opened": self.opened,
            "parts": len(self.usage),
            "call": {"seconds": sum(seconds)} if len(seconds) == len(calls) else {},
        }
        message = last.message.model_copy(update={"content": summary if mark else self.written})
        choice = last.choices[0].model_copy(update={"message": message})
        return last.model_copy(
            update={
                "choices": [choice],
                "completion": message.text,
                "usage": usage,
                "metadata": metadata,
            }
        )
