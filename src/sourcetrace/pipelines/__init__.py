"""One folder a stage. Nodes import torch when they run: a report from tables needs none."""
