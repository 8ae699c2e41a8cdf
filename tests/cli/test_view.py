"""`workbench view`: what it refuses, and that it starts a server on this machine only."""

import socket
import subprocess

import pytest

from workbench.cli import view as verb


@pytest.fixture
def started(monkeypatch):
    """What would be started, instead of starting it."""
    calls = []

    def run(command, env, **_):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(verb.subprocess, "run", run)
    return calls


def test_it_starts_streamlit_on_this_machine_only(cli, started, tmp_path):
    (tmp_path / "mine").mkdir()
    said = cli("view", "mine")
    assert said.code == 0 and said.out == ""
    ((command, environment),) = started
    assert "--server.address=127.0.0.1" in command and "--browser.gatherUsageStats=false" in command
    assert "--server.fileWatcherType=none" in command
    assert environment["WORKBENCH_RUNS"] == str(tmp_path / "mine")
    assert f"http://127.0.0.1:{next(w for w in command if 'server.port' in w).partition('=')[2]}" in said.err


def test_a_folder_that_is_not_there_is_shown_empty(cli, started):
    assert cli("view").code == 0
    assert len(started) == 1


def test_without_streamlit_it_says_how_to_install_it(cli, started, monkeypatch):
    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    said = cli("view")
    assert said.code == 2 and "pip install -e '.[app]'" in said.err
    assert started == []


def test_a_file_is_refused(cli, started, tmp_path):
    (tmp_path / "file").write_text("")
    said = cli("view", "file")
    assert said.code == 2 and "'file' is a file" in said.err and started == []


def test_a_taken_port_is_refused_by_name_and_avoided_when_none_is_asked_for(cli, started):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = cli("view", "--port", port)
        assert said.code == 2 and f"Port {port} is taken" in said.err and started == []
    with socket.socket() as first:
        try:
            first.bind(("127.0.0.1", verb.FIRST_PORT))
            first.listen()
        except OSError:
            pass  # somebody else has it: as good
        assert cli("view").code == 0
    assert f"--server.port={verb.FIRST_PORT}" not in started[0][0]


@pytest.mark.parametrize(("words", "told"), [((), "0"), (("--live",), "1")])
def test_models_are_opened_only_when_that_is_asked_for(cli, started, monkeypatch, words, told):
    monkeypatch.setenv("WORKBENCH_LIVE", "1")  # what an earlier shell left behind opens nothing
    assert cli("view", *words).code == 0
    assert started[0][1]["WORKBENCH_LIVE"] == told
