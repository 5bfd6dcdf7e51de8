"""What reviewers of the audited model are handed: a section for its card, a bill of materials.

Documents come after the verdict and before it is enforced.
"""
