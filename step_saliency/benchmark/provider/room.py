"""Is there room in the context for a response to go on?

Of many responses that are decoded together one may have filled the context, by its prompt or by the
words that it is to go on from. It ends there, as a response does that fills it while it is decoded,
and the others go on.
"""

from typing import Any

from step_saliency.benchmark.provider.requests import Request
from step_saliency.segment.build import prompt_tokens, written_tokens


class NoRoomError(ValueError):
    """A prompt, with the words that a response is to go on from, fills the context."""


def check_room(request: Request, tokenizer: Any, context: int) -> None:
    """See that a response has room for another token.

    Args:
        request: What is asked for.
        tokenizer: The model's.
        context: Longest sequence of the model, in tokens.

    Raises:
        NoRoomError: its prompt, or the words that it goes on from, leave none.
    """
    framed, question = request.group.frame.tokenizer(tokenizer), request.question
    n_prompt, n_written = len(prompt_tokens(framed, question)), 0
    if request.continued is not None:
        assert isinstance(request.continued.written, str)
        n_written = len(written_tokens(framed, question, request.continued.written))
    if n_prompt + n_written >= context:
        raise NoRoomError(
            f"{n_prompt} tokens of a prompt and {n_written} that were written fill the context of "
            f"{context}"
        )
