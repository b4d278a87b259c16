"""The same traces in our own form and in forms in which traces are stored in public."""

import json
from typing import Any

QUESTION = "A tray holds 6 rolls. How many rolls are on 3 trays when 4 are eaten?"
THINKING = "Three trays hold 18 rolls. Four are eaten. So 14 are left."
SUMMARY = "There are \\boxed{14} rolls left."
TEXT = f"<think>\n{THINKING}\n</think>\n\n{SUMMARY}"
WRONG = "<think>\nThree trays hold 15 rolls.\n</think>\n\nThere are \\boxed{11} rolls left."
ASKED = {"role": "user", "content": QUESTION}
OWN: dict[str, Any] = {"question": QUESTION, "response": TEXT, "gold_answer": "14"}

FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "conversations": (
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": TEXT}]},
        "OpenThoughts conversations",
    ),
    "reasoning and solution": (
        {"problem": QUESTION, "deepseek_reasoning": THINKING, "deepseek_solution": SUMMARY,
         "ground_truth_solution": "6 * 3 - 4 = \\boxed{14}"},
        "OpenThoughts reasoning and solution",
    ),
    "generations": (
        {"problem": QUESTION, "answer": "14", "generations": [TEXT],
         "correctness_math_verify": [True], "uuid": "u"},
        "OpenR1 generations",
    ),
    "s1K": (
        {"question": QUESTION, "solution": "14", "deepseek_thinking_trajectory": THINKING,
         "deepseek_attempt": SUMMARY, "deepseek_grade": "Yes"},
        "s1K trajectories and attempts",
    ),
    "NeMo": (
        {"problem": QUESTION, "generation": TEXT, "expected_answer": 14},
        "NeMo-Skills generations",
    ),
    "OpenMathReasoning": (
        {"problem": QUESTION, "generated_solution": TEXT, "expected_answer": "14",
         "problem_type": "has_answer_extracted"},
        "NeMo-Skills generations",
    ),
    "verl": (
        {"prompt": [ASKED], "responses": [TEXT], "reward_model": {"ground_truth": "14"}},
        "verl prompts and responses",
    ),
    "lm-eval": (
        {"doc_id": 3, "doc": {"question": QUESTION, "answer": "18 - 4 #### 14"}, "target": "14",
         "arguments": {"gen_args_0": {"arg_0": f"Q: {QUESTION}"}}, "resps": [[TEXT]],
         "filtered_resps": ["14"], "exact_match": 1.0},
        "lm-eval samples",
    ),
    "inspect": (
        {"id": 4, "epoch": 1, "input": QUESTION, "target": "14",
         "messages": [ASKED, {"role": "assistant", "content": [
             {"type": "reasoning", "reasoning": THINKING}, {"type": "text", "text": SUMMARY}]}],
         "output": {"choices": [{"message": {"role": "assistant", "content": SUMMARY}}]},
         "scores": {"match": {"value": "C", "answer": "14"}}},
        "inspect-ai samples",
    ),
    "batch": (
        {"custom_id": "r-1", "body": {"messages": [ASKED]}, "error": None,
         "response": {"status_code": 200, "body": {"object": "chat.completion", "choices": [
             {"index": 0, "message": {"role": "assistant", "content": SUMMARY,
                                      "reasoning_content": THINKING}}]}}, "answer": "14"},
        "results of an API batch",
    ),
    "completion": (
        {"messages": [ASKED], "object": "chat.completion", "gold": "14", "choices": [
            {"message": {"role": "assistant", "content": SUMMARY, "reasoning": THINKING}}]},
        "chat completions",
    ),
    "message of parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                      {"role": "assistant", "content": [
                          {"type": "thinking", "thinking": THINKING, "signature": "x"},
                          {"type": "text", "text": SUMMARY}]}], "target": "14"},
        "conversations (messages)",
    ),
    "messages with thinking": (
        {"messages": [ASKED, {"role": "assistant", "thinking": THINKING, "content": SUMMARY}],
         "answer": 14},
        "conversations (messages)",
    ),
    "thinking beside the response": (
        {"question": QUESTION, "reasoning": THINKING, "response": SUMMARY, "answer": "14"},
        "questions and responses",
    ),
    "responses API": (
        {"object": "response", "input": [ASKED], "ground_truth": "14", "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": THINKING}]},
            {"type": "message", "role": "assistant",
             "content": [{"type": "output_text", "text": SUMMARY}]}]},
        "answers of an API",
    ),
    "details of reasoning": (
        {"messages": [ASKED], "object": "chat.completion", "gold": "14", "choices": [
            {"message": {"role": "assistant", "content": SUMMARY, "reasoning": None,
                         "reasoning_details": [{"type": "reasoning.text", "text": THINKING}]}}]},
        "chat completions",
    ),
    "Gemini": (
        {"request": {"contents": [{"parts": [{"text": QUESTION}]}]}, "answer": 14,
         "response": {"candidates": [{"content": {"role": "model", "parts": [
             {"text": THINKING, "thought": True}, {"text": SUMMARY}]}}]}},
        "results of an API batch",
    ),
    "Ollama": (
        {"model": "m", "prompt": QUESTION, "response": SUMMARY, "thinking": THINKING, "done": True,
         "done_reason": "stop", "gold": "14"},
        "answers of an API",
    ),
    "vLLM requests": (
        {"question": QUESTION, "outputs": [{"index": 0, "text": TEXT, "token_ids": [1]}],
         "gt_answer": "14"},
        "questions and responses",
    ),
    "lighteval": (
        {"doc": {"query": QUESTION, "choices": ["14"], "gold_index": 0},
         "model_response": {"text": [SUMMARY], "reasonings": [THINKING]}, "metric": {"em": 1.0}},
        "details of lighteval",
    ),
    "SYNTHETIC-1": (
        {"problem_id": "v", "prompt": QUESTION, "llm_response": TEXT, "task_type": "math",
         "verification_info": "{\"ground_truth\": \"14\"}"},
        "questions and responses",
    ),
    "AM-DeepSeek-R1": (
        {"messages": [{**ASKED, "info": {"reference_answer": "14"}},
                      {"role": "assistant", "content": TEXT, "info": {"reference_answer": None}}]},
        "conversations (messages)",
    ),
    "Nemotron": (
        {"input": [ASKED], "output": TEXT, "reasoning": "on", "generator": "R1",
         "metadata": "{\"expected_answer\": \"14\"}"},
        "verl prompts and responses",
    ),
    "Dolphin-R1": (
        {"messages": [ASKED], "reasoning": THINKING, "answer": SUMMARY, "model": "m",
         "gold_answer": "14"},
        "Dolphin-R1 reasoning and answers",
    ),
    "Qwen2.5-Math": (
        {"question": QUESTION, "gt": "14", "gt_cot": "18 - 4", "code": [TEXT], "pred": ["14"],
         "score": [True]},
        "outputs of Qwen2.5-Math's evaluation",
    ),
    "names in capitals": (
        {"Problem": QUESTION, "Generated Solution": TEXT, "Answer": 14}, "NeMo-Skills generations",
    ),
}  # fmt: skip
"""Row of each form, and what the form is called."""


def lines(*rows: object) -> str:
    """JSON lines; texts stand as they are."""
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
