"""The numerics: torch, scipy and the standard library; no paths, no Kedro, no MLflow.

Rooms, each importing those before it: `machine`, `training`, `layers`, `model`, `gradients`,
`curvature`, `engine`, `plan`, `responses`, `methods`; `statistics` stands alone.
"""
