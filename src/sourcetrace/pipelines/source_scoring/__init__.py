"""The set-up, scores block by block, then pictures of the examples that harm the queries most."""
