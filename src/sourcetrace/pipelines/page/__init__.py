"""The page comes after the verdict and before it is enforced.

What other stages say of an audit is read where it is: a record of other scores is left out.
"""
