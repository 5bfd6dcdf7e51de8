"""An audit in the formats that reviewers ask for: a model card's section and an ML-BOM.

Pure functions on the audit's result; `pipelines/gate` joins them to files.
"""
