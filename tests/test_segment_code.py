"""Statements of code blocks as steps."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import examples
from segment_tokenizers import byte_level, smollm2, unchecked_calls

from step_saliency.segment import StepTracker, split_text
from step_saliency.trace import Trace


def steps(text: str, splitter: str = "code") -> list[str]:
    bounds = [*split_text(text, splitter), len(text)]
    return [text[a:b].strip() for a, b in pairwise(bounds)]


def fenced(*statements: str, language: str = "python") -> str:
    return f"```{language}\n" + "\n".join(statements) + "\n```"


FUNCTION = "def legs(cats):\n    # four each. Not three.\n    return 4 * cats"


def test_a_block_is_cut_by_statements() -> None:
    text = (
        "We write it now:\n"
        + fenced("import math", FUNCTION, "\nprint(legs(2))")
        + "\nIt is eight."
    )
    assert steps(text) == [
        "We write it now:\n```python",
        "import math",
        FUNCTION,
        "print(legs(2))\n```",
        "It is eight.",
    ]


def test_the_fence_joins_the_first_statement_or_the_prose_before_it() -> None:
    alone = steps("We write it now.\n\n" + fenced("import math", FUNCTION))
    assert alone == ["We write it now.", "```python\nimport math", FUNCTION + "\n```"]
    led = steps("Here is the code:\n" + fenced("import math", FUNCTION))
    assert led == ["Here is the code:\n```python", "import math", FUNCTION + "\n```"]


@pytest.mark.parametrize(
    "statement",
    [
        'text = """one\ntwo three\n\nfour"""',
        "values = [\n1,\n2,\n]",
        "call(\n'a (',\n)",
        "if cats > 1:\n    n = 2\nelif cats:\n    n = 1\nelse:\n    n = 0",
        "try:\n    run()\nexcept ValueError:\n    stop()",
        "@cache\ndef legs():\n    return 4",
        "# what follows is the sum\ntotal = 1 + 2",
        "total = 1 + \\\n2",
        "for cat in cats:\n    feed(cat)\n\n    pet(cat)",
        's = "it\'s ( here"',
        "x = 1  # not ( closed",
    ],
)
def test_a_statement_stays_together(statement: str) -> None:
    text = fenced("first = 'statement'", statement, "last = 'statement'")
    assert steps(text) == ["```python\nfirst = 'statement'", statement, "last = 'statement'\n```"]


@pytest.mark.parametrize(
    ("language", "statement"),
    [
        ("javascript", "function legs(n) {\nreturn 4 * n;\n}"),
        ("js", "const s = `one\ntwo (`;"),
        ("cpp", "int legs(int n)\n{\n  return 4 * n; // it's (\n}"),
        ("rust", "fn legs(n: u32) -> u32 {\n4 * n\n}"),
    ],
)
def test_other_languages(language: str, statement: str) -> None:
    text = fenced("first(statement);", statement, "last(statement);", language=language)
    assert steps(text) == [
        f"```{language}\nfirst(statement);",
        statement,
        "last(statement);\n```",
    ]


def test_a_block_inside_a_list_is_cut_at_its_own_indentation() -> None:
    text = "1. Do this:\n   ```python\n   import math\n   def f():\n       pass\n   ```"
    assert steps(text)[-1] == "def f():\n       pass\n   ```"


PROSE = "We count legs. One cat has four.\n\nSo two have eight, e.g. Tom and Tim. `a. B` is code."


def test_prose_is_cut_as_by_sentence_and_the_default_keeps_blocks_whole() -> None:
    assert steps(PROSE) == steps(PROSE, "sentence")
    block = fenced("import math", FUNCTION)
    assert steps(f"We write it.\n\n{block}", "sentence")[-1] == block


@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_code_answers_have_steps(make) -> None:
    response = "<think>\nWe write it.\n</think>\n\n" + fenced("import math", FUNCTION)
    trace = Trace.from_text(
        make(), question="Code?", response=response, splitter="code", chat_template=False
    )
    summary = [step.text.strip() for step in trace.steps if step.region == "summary"]
    assert summary == ["```python\nimport math", FUNCTION + "\n```"]


WITHIN = {
    "after prose": "The code is: ```python\nprint(8)\n```\n",
    "bare": "Sample input: ```\n5\n```\n",
    "in a list": "- ```python\n  print(8)\n  ```\n",
    "in a quotation": "> ```python\n> print(8)\n> ```\n",
    "closed at the end of a line": "The code is:\n```python\nprint(8)```\n",
    "in one line": "```python print(8)``` is the code.\n",
    "twice in one line": "We write ```a``` or ```b```\n",
    "no block": "A block begins with ``` as it were.\n",
    "never closed": "It has to stand in ```\n\n",
    "with a mark in it": "The page is: ```html\n</think>\n```\n",
    "with a mark in a string": "It is: ```python\n\nprint('</think>')\n```\n",
}


@pytest.mark.parametrize("splitter", ["sentence", "code", "line"])
@pytest.mark.parametrize("make", [byte_level, smollm2])
@pytest.mark.parametrize("name", WITHIN)
def test_thinking_ends_at_its_mark_after_a_block_that_opens_within_a_line(
    name: str, make, splitter: str
) -> None:
    block = WITHIN[name]
    response = f"<think>\n{block}That is fine.\n</think>\n\nIt prints \\boxed{{8}}. Done."
    trace = Trace.from_text(
        make(), question="Code?", response=response, splitter=splitter, chat_template=False
    )
    summary = "".join(step.text for step in trace.steps if step.region == "summary")
    assert summary.strip() == "It prints \\boxed{8}. Done."
    tracker = StepTracker(make(), splitter=splitter)
    starts = [step.start for step in trace.steps if "<think>" in step.text]
    tracker.start(trace.tokens[: starts[0]])
    for token in trace.tokens[starts[0] :]:
        tracker.push(int(token))
    online = [start for start in tracker.starts if start >= starts[0]]
    assert online == [step.start for step in trace.steps if step.start >= starts[0]]


def test_a_block_that_opens_within_a_line_is_whole_or_cut_by_statements() -> None:
    text = "It is: ```python\nimport math\nPrint = math.pi\n```\nThat is all."
    block, _, after = text.rpartition("\n")
    assert steps(text, "sentence") == [block, after]
    assert steps(text) == ["It is: ```python", "import math", "Print = math.pi\n```", after]
    commented = text.replace("import math", "sign = 1  # (")
    assert steps(commented)[1:3] == ["sign = 1  # (", "Print = math.pi\n```"]
    joined = "sign = 1  # (\nPrint = math.pi\n```\nThat is all."
    assert steps(commented.replace("python", "js"))[1] == joined.rpartition("\n")[0]


_PARTS = (
    "```python\n~``` ~```b\n~"
    '```\n~\n~    ~x = 1~def f():~(~)~[~{~}~"~\'~"""~# c~//~`~if a:~else:~e = 2~'
    "@d~\\~We say so. ~The sum~\n\n~return 3~\t"
)
_CODE = st.lists(st.sampled_from(_PARTS.split("~")), max_size=30).map("".join)


@settings(max_examples=examples(1500), deadline=None)
@given(_CODE, st.floats(0, 1))
def test_steps_of_code_tile_and_depend_on_no_later_character(text: str, part: float) -> None:
    with unchecked_calls():
        starts = split_text(text, "code")
        prefix = text[: int(part * len(text))]
        early = split_text(prefix, "code")
    assert all(a < b for a, b in zip(starts, [*starts[1:], len(text)], strict=False))
    assert not any(text[start].isspace() for start in starts[1:])
    assert early == [start for start in starts if start < len(prefix)]
