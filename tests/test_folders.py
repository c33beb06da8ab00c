"""Folders for a while: they go with what needs them, and what a killed process left goes later."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from alexc import folders
from alexc.folders import scratch

OWNER = """
import sys, time
from alexc.folders import scratch
with scratch("test") as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_it_is_gone_when_it_is_not_needed_any_more(temporary: Path) -> None:
    with scratch("test") as first, scratch("test") as second:
        assert first != second
        assert {first, second} == set(temporary.iterdir())
        (first / "file").touch()
    assert list(temporary.iterdir()) == []
    with pytest.raises(KeyError), scratch("test"):
        raise KeyError
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks on folders")
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(temporary: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        left = Path(owner.stdout.readline().strip())
        other = temporary / "alexc-other.12345678"
        other.mkdir()
        with scratch("test"):
            assert (left / "file").exists()
        owner.kill()
    assert (left / "file").exists()
    with scratch("test") as folder:
        assert {folder, other} == set(temporary.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks on folders")
def test_what_is_no_folder_of_ours_is_left_alone(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = temporary / "precious"
    precious.mkdir()
    (temporary / "alexc-test.a_link_1").symlink_to(precious)
    (temporary / "alexc-test.a_file_2").touch()
    (temporary / "alexc-test.results").mkdir()  # as a person would name it
    with scratch("test"):
        pass
    assert len(list(temporary.iterdir())) == 4
    theirs = temporary / "alexc-test.theirs_3"
    theirs.mkdir()
    monkeypatch.setattr("os.getuid", lambda: -1)
    with scratch("test"):
        assert theirs.exists()


def test_one_that_was_taken_for_left_behind_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process sweeps between the making of a folder and the lock on it."""
    lock = folders._lock
    taken: list[Path] = []

    def swept(folder: Path, *, wait: bool) -> int | None:
        if not taken:
            taken.append(folder)
            folder.rmdir()
        return lock(folder, wait=wait)

    monkeypatch.setattr(folders, "_lock", swept)
    with scratch("test") as folder:
        assert folder.is_dir()
        assert [folder] != taken
        assert list(temporary.iterdir()) == [folder]
