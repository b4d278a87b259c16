"""Kernels that the streaming path is made of; which layer or loss they serve is not known here.

Each has its truth, `naive`, beside its fast forms, with one signature.
"""
