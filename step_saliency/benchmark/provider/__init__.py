"""``step-saliency/MODEL`` as a model of inspect-ai.

frame     what stands around the last message of a conversation, as a chat template of its own
settings  the ``-M`` options: how the model is loaded, and the flow it decodes with
engine    a vLLM engine in place of a transformers model
weights   models, each read once a process, without a TransformerLens copy beside it
requests  one response asked for, and which of them are decoded together
queue     requests that wait, decoded by `ss.generate` in calls of many
store     what was decoded, kept as trace logs and taken up again
output    a trace as inspect-ai's output: reasoning, text, usage, ending, effects
api       the class that inspect-ai calls
"""
