"""Expected values in float64, by the plainest means; none of them calls the code under test."""
