"""Small specs written by a test, in a project of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from alexc.diagnostics import AlexcError, Diagnostic
from alexc.frontend import Net, load_net

HEAD = "alexc: 1\nname: small\ninput: {channels: 3, height: 17, width: 13}\n"


class Project:
    """A folder in which the test stands and where specs are written and loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "spec.yaml") -> Path:
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def load(self, text: str, name: str = "spec.yaml") -> Net:
        """The net of a spec with this text, which must be good."""
        return load_net(self.write(text, name))

    def layers(self, text: str) -> Net:
        """The net of these layers, indented by two, on an input of 3×17×13."""
        return self.load(HEAD + "layers:\n" + text)

    def said_of(self, text: str) -> list[Diagnostic]:
        """The faults of a spec, or its warnings."""
        try:
            return list(self.load(text).warnings)
        except AlexcError as error:
            return list(error.diagnostics)

    def codes(self, text: str) -> list[str]:
        return [diagnostic.code for diagnostic in self.said_of(text)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    (tmp_path / "pyproject.toml").touch()  # what makes a folder a project
    with chdir(tmp_path):
        yield Project(tmp_path)
