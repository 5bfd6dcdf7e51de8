"""What a run says at its end."""

from types import SimpleNamespace

from sourcetrace.hooks.summary import TerminalHook
from sourcetrace.hooks.terminal import Terminal


def test_commands_that_it_prints_run_in_the_environment_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(Terminal, "environment", "")
    Terminal.print_error("Run `kedro run --pipelines audit`.")
    TerminalHook().after_context_created(SimpleNamespace(env="mine"))
    Terminal.print_error("Run `kedro run --pipelines audit`.")
    without, with_it = capsys.readouterr().err.strip().split("\n\n")
    assert "audit`." in without
    assert "audit --env mine`." in with_it
