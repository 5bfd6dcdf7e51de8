"""Checkpoints and data, checked before anything expensive starts.

One node, so that a wrong input leaves every earlier output as it was.
"""
