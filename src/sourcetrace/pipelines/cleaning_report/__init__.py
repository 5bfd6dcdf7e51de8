"""Tables in, the review list and a summary out; no torch. The page comes last, in its own."""
