"""Texts that are hard to cut, for property tests."""

from hypothesis import strategies as st

_FRAGMENTS = (
    "the cat sat~We compute~ x = 3.14~Dr. ~e.g. ~Fig. 2 ~ ~  ~A~9~. ~! ~? ~... ~.\n~.~.) ~!~:~,~"
    "。~！~」~漢字~かな~\n~\n\n~\r\n~\t~\u3000~\u00a0~\u200b~\ufffd~\x00~1. ~\n2. ~- ~\n* ~\n## ~"
    "```~\n```\n~`~$~$$~\\(~\\)~\\[~\\]~\\begin{align}~\\end{align}~\\boxed{7}~2014! ~$2 ~"
    "| a | b |\n~😀~👩\u200d👩\u200d👧~é~e\u0301~<think>~</think>~<~>~</~final~#### 7~"
    "The answer is~Wait~**Answer**~Okay, so.~ Then ~नमस्ते।~؟ ~<|channel|>~<|message|>~<|end|>~"
    "<|start|>~\n~\n\n~ the answer "
)

texts = st.lists(st.sampled_from(_FRAGMENTS.split("~")), max_size=24).map("".join) | st.text(
    max_size=60
)
"""Any text, the empty one included, half of them made of what splitters and formats look for."""

_MARKS = (
    "<|begin_of_thought|>~<|end_of_thought|>~<|begin_of_solution|>~<|end_of_solution|>~[THINK]~"
    "[/THINK]~◁think▷~◁/think▷~<thought>~</thought>~<seed:think>~</seed:think>~<thinking>~"
    "<|START_THINKING|>~<|END_THINKING|>~<|im_start|>think~<|im_start|>answer~"
    "</thinking>~<reasoning>~</reasoning>~<answer>~</answer>~<think>~</think>~analysis~final~"
    "assistantfinal~assistantanalysis~<|channel|>~<|message|>~<|start|>~<|end|>~<|im_end|>~</s>~"
    "<|eot_id|>~`~``~```\n~\"~'~“~”~<~[~/~|~ ~\n~\n\n~.~We add 3. ~The answer is~ so 7~x = (1~"
    "def f():\n    pass\n~Wait, ~漢字。"
)
marked_texts = st.lists(st.sampled_from(_MARKS.split("~")), max_size=24).map("".join)
"""Texts with the marks of many formats, quoted or not, and with code."""
