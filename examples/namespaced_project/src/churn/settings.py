"""Kedro's settings: the audit's hooks and configuration loader, and room for the team's own."""

from sourcetrace.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS, HOOKS

__all__ = ["CONFIG_LOADER_ARGS", "CONFIG_LOADER_CLASS", "HOOKS"]
