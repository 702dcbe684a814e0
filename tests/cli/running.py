"""Runs a command line inside the test's own process."""

from __future__ import annotations

import sys

from alphabar import cli


def run_command_line(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `alphabar ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["alphabar", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
