"""StepFlow inside vLLM: attention in three groups of keys, for the requests that ask for it.

vLLM finds `plugin.register` by its entry point ``vllm.general_plugins``. From then on every request
may ask for an Odds-Equal Bridge, for Step Momentum Injection, or for both, by its own
``SamplingParams.extra_args``; requests that ask for nothing are computed by vLLM's kernels alone.
Maps, diagnosis and the decoding loops of this package are not here.

For a row p of attention with bridge B and current part S, the edited output is

    o' = o + (q_B / p_B - 1) * sum_{k in B} p_k v_k - (1 - q_S / p_S) * sum_{k in S} p_k v_k

so that vLLM's own kernel stays as it is, and what is added is zero, to the bit, in rows that are
left alone.
"""

from step_saliency.vllm.options import FLOWS, KEY, FlowOptions, extra_args

__all__ = ["FLOWS", "KEY", "FlowOptions", "extra_args"]
