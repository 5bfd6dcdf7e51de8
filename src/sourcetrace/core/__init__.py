"""The numerics: torch and the standard library only; no paths, no Kedro."""
