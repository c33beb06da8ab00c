"""Runs the `alexc` command inside the test's own process, which saves starting one each time."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from alexc.cli.main import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Alexc:
    """`alexc("check", path)` runs `alexc check PATH` and returns what came of it."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["alexc", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)


@pytest.fixture
def alexc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Alexc:
    return Alexc(capsys, monkeypatch)
