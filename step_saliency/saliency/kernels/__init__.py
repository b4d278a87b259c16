"""Kernels that the streaming path is made of; each has its truth, `naive`, beside its fast
forms."""
