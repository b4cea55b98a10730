"""daphne_like.cli: what command lines come to, Daphne's above all, and one clear line for the wrong ones."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import daphne_like
from daphne_like import cli, elsewhere
from daphne_like.configuration import resolve
from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.settings import Settings, options

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in os.environ:
        if name.startswith("DAPHNE_LIKE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch):
    """Stands in for daphne_like.run: the list of (settings, application) that would have been served."""
    calls: list[tuple[Settings, str]] = []
    run = ModuleType("daphne_like.run")
    run.run = lambda settings, application: calls.append((settings, application)) or 0
    monkeypatch.setitem(sys.modules, "daphne_like.run", run)
    monkeypatch.setattr(daphne_like, "run", run, raising=False)
    return calls


def command(*words: str, **options) -> subprocess.CompletedProcess[str]:
    """`python -m daphne_like` as a process of its own."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "daphne_like", *words], capture_output=True, text=True, env=environ, **options
    )


# -- Daphne's command lines -----------------------------------------------------------------------

SITE = "site.asgi:application"
DAPHNE_COMMAND_LINES = [  # README of daphne 4.2, Channels' deployment guide, then each flag of daphne/cli.py
    (f"{SITE}", {}),
    (f"-p 8001 {SITE}", {"port": 8001}),
    (f"-b 0.0.0.0 -p 8001 {SITE}", {"bind": ("0.0.0.0",), "port": 8001}),
    (f"-u /run/daphne.sock {SITE}", {"unix_socket": ("/run/daphne.sock",)}),
    (f"--fd 5 {SITE}", {"file_descriptor": (5,)}),
    (
        f"-e ssl:443:privateKey=key.pem:certKey=crt.pem {SITE}",
        {"endpoint": ("ssl:443:privateKey=key.pem:certKey=crt.pem",)},
    ),
    (f"--root-path=/forum {SITE}", {"root_path": "/forum"}),
    (
        f"-u /run/daphne/daphne0.sock --fd 0 --access-log - --proxy-headers {SITE}",
        {
            "unix_socket": ("/run/daphne/daphne0.sock",),
            "file_descriptor": (0,),
            "access_log": "-",
            "proxy_headers": True,
        },
    ),
    (f"{SITE} --bind ::1 --port 80", {"bind": ("::1",), "port": 80}),
    (f"--websocket_timeout 60 {SITE}", {"websocket_timeout": 60}),
    (f"--websocket_timeout -1 {SITE}", {"websocket_timeout": 0}),
    (f"--websocket_connect_timeout=9 {SITE}", {"websocket_connect_timeout": 9}),
    (f"--unix-socket x.sock {SITE}", {"unix_socket": ("x.sock",)}),
    (f"--endpoint tcp:80 -e tcp:81 {SITE}", {"endpoint": ("tcp:80", "tcp:81")}),
    (f"-v 0 {SITE}", {"verbosity": 0}),
    (f"--verbosity 3 {SITE}", {"verbosity": 3}),
    (f"-t 30 {SITE}", {"http_timeout": 30}),
    (f"--http-timeout 30 {SITE}", {"http_timeout": 30}),
    (f"--access-log /var/log/a.log {SITE}", {"access_log": "/var/log/a.log"}),
    (f"--log-fmt %(message)s {SITE}", {"log_fmt": "%(message)s"}),
    (f"--ping-interval 5 --ping-timeout 7 {SITE}", {"ping_interval": 5, "ping_timeout": 7}),
    (f"--websocket-max-message-size 0 {SITE}", {"websocket_max_message_size": 0}),
    (f"--websocket-max-frame-size 4096 {SITE}", {"websocket_max_frame_size": 4096}),
    (f"--application-close-timeout 3 {SITE}", {"application_close_timeout": 3}),
    (
        f"--proxy-headers --proxy-headers-host X-Real-IP --proxy-headers-port X-Real-Port {SITE}",
        {"proxy_headers": True, "proxy_headers_host": "X-Real-IP", "proxy_headers_port": "X-Real-Port"},
    ),
    (f"-s mine {SITE}", {"server_name": "mine"}),
    (f"--server-name mine {SITE}", {"server_name": "mine"}),
    (f"--no-server-name {SITE}", {"server_name": ""}),
]


@pytest.mark.parametrize(("line", "expected"), DAPHNE_COMMAND_LINES)
def test_daphnes_command_lines_mean_what_they_meant(line, expected, served):
    assert cli.main(line.split()) == 0
    assert served == [(Settings(**expected), SITE)]


OUR_COMMAND_LINES = [
    (f"{SITE} -b 127.0.0.1 -b [::1]:81", {"bind": ("127.0.0.1", "[::1]:81")}),
    (f"-p8001 {SITE}", {"port": 8001}),
    (f"--max-body-size 10m {SITE}", {"max_body_size": 10 * 1024 * 1024}),
    (f"--max_body_size=0 {SITE}", {"max_body_size": 0}),
    (f"--unix-socket-mode 660 {SITE}", {"unix_socket_mode": 0o660}),
    (f"--no-access-log {SITE}", {"access_log": ""}),
    (f"--no-websocket-compression {SITE}", {"websocket_compression": False}),
    (f"--no-websocket-compression --websocket-compression {SITE}", {}),
    (f"--forwarded-allow-ips 10.0.0.0/8,unix {SITE}", {"forwarded_allow_ips": ("10.0.0.0/8", "unix")}),
    (f"--access-log-skip /healthz {SITE}", {"access_log_skip": ("/healthz",)}),
    (f"--factory --lifespan=on {SITE}", {"factory": True, "lifespan": "on"}),
    (f"--factory -- {SITE}", {"factory": True}),
    (f"-p 1 -p 2 {SITE}", {"port": 2}),
]


@pytest.mark.parametrize(("line", "expected"), OUR_COMMAND_LINES)
def test_our_command_lines(line, expected, served):
    assert cli.main(line.split()) == 0
    assert served == [(Settings(**expected), SITE)]


ARGUMENTS = {  # where "10", "x" or the last of the choices would not do
    "access_log_skip": ["/x"],
    "health_path": ["/x"],
    "ready_path": ["/x"],
    "limit_max_requests_jitter": ["10", "--limit-max-requests", "1000"],
    "on_worker_restart": ["close"],
    "forwarded_allow_ips": ["::1"],
    "log_fmt": ["%(message)s"],
    "max_head_size": ["10k"],
    "max_target_length": ["10k"],
    "private_key": ["x", "--certificate", "y"],
    "proxy_headers_host": ["x", "--proxy-headers"],
    "proxy_headers_port": ["x", "--proxy-headers"],
    "receive_buffer_size": ["10k"],
    "root_path": ["/x"],
    "send_buffer_size": ["10k"],
    "verbosity": ["2"],
    "websocket_compression": ["--no-websocket-compression"],
}
ARGUMENT_OF_KIND = {bool: [], int: ["10"], float: ["11"], str: ["x"]}


@pytest.mark.parametrize("option", options(), ids=lambda each: each.name)
def test_each_flag_is_taken_with_dashes_and_with_underscores(option, served):
    words = [option.choices[-1]] if option.choices else ARGUMENT_OF_KIND[option.kind]
    words = ARGUMENTS.get(option.name, words)
    spellings = {option.flag, "--" + option.flag.removeprefix("--").replace("-", "_")}
    for flag in spellings:
        assert cli.main([flag, *words, SITE]) == 0
    assert len(served) == len(spellings)
    assert len({settings for settings, _ in served}) == 1
    assert getattr(served[0][0], option.name) != option.default


def test_application_from_the_environment(served, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_APPLICATION", SITE)
    monkeypatch.setenv("DAPHNE_LIKE_PORT", "8002")
    assert cli.main([]) == 0
    assert served == [(Settings(port=8002), SITE)]


def test_config_file(served, tmp_path):
    path = tmp_path / "site.toml"
    path.write_text('application = "site.asgi:application"\nport = 8003\nverbosity = 2')
    assert cli.main(["--config", str(path), "-v", "0"]) == 0
    assert served == [(Settings(port=8003, verbosity=0), SITE)]


def test_layer_without_an_application_is_a_relay(served):
    assert cli.main(["--layer", "ipc:/run/s"]) == 0
    assert served == [(Settings(layer="ipc:/run/s"), None)]


@pytest.fixture
def worked(monkeypatch):
    """Stands in for daphne_like.worker_process, as `served` does for run."""
    calls: list[tuple[Settings, str]] = []
    process = ModuleType("daphne_like.worker_process")
    process.run = lambda settings, application: calls.append((settings, application)) or 0
    monkeypatch.setitem(sys.modules, "daphne_like.worker_process", process)
    monkeypatch.setattr(daphne_like, "worker_process", process, raising=False)
    return calls


WORKERS = [
    (f"worker {SITE} --layer ipc:/run/s", {}),
    (f"worker --layer=ipc:/run/s {SITE} --only websocket.*", {"only": ("websocket.*",)}),
    (f"worker {SITE} --layer ipc:/run/s --only a --only b", {"only": ("a", "b")}),
    (
        f"worker {SITE} --layer ipc:/run/s --channels thumbnails,emails",
        {"channels": ("thumbnails", "emails")},
    ),
]


@pytest.mark.parametrize(("line", "expected"), WORKERS)
def test_worker_command(line, expected, worked, served):
    assert cli.main(line.split()) == 0
    assert worked == [(Settings(layer="ipc:/run/s", **expected), SITE)]
    assert served == []


def test_worker_finds_the_layer_in_the_environment(worked, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_LAYER", "ipc:/run/s")
    assert cli.main(["worker", SITE]) == 0
    assert worked == [(Settings(layer="ipc:/run/s"), SITE)]


def test_commands_are_commands_only_as_the_first_word(served, worked, capsys):
    assert cli.main(["--port", "80", "worker"]) == 2
    assert "'worker' is no import string" in capsys.readouterr().err
    assert cli.main([SITE, "settings"]) == 2
    assert worked == served == []


# -- wrong words ----------------------------------------------------------------------------------

WRONG = [
    ("", "name the application"),
    ("--workers 2", "--workers: name the application that workers run"),
    ("--workers 2 --layer ipc:/run/s", "--workers: name the application that workers run"),
    ("--reload --layer ipc:/run/s", "--reload: name the application that workers run"),
    ("worker", "name the application"),
    ("worker --layer ipc:/run/s", "name the application"),
    (f"worker {SITE}", "--layer: name the layer of the server"),
    ("worker site.asgi --layer ipc:/run/s", "'site.asgi' is no import string"),
    (f"--workers many {SITE}", "--workers: 'many' is not a whole number"),
    (f"--on-worker-restart sometimes {SITE}", "--on-worker-restart: 'sometimes': it is resume or close"),
    (f"--only http/request {SITE}", "--only: 'http/request': it is a channel's name"),
    (f"--channels a,b! {SITE}", "--channels: 'b!': a channel's name"),
    ("site.asgi", "'site.asgi' is no import string"),
    ("site/asgi.py:app", "names a file"),
    (f"{SITE} other:app", "unexpected 'other:app'"),
    (f"--max-boddy-size 1 {SITE}", "unknown option --max-boddy-size; did you mean --max-body-size?"),
    (f"--max-boddy-size=1 {SITE}", "unknown option --max-boddy-size; did you mean"),
    (f"--frobnicate {SITE}", "unknown option --frobnicate"),
    (f"-x {SITE}", "unknown option -x"),
    (f"--uds /run/s {SITE}", "unknown option --uds; here it is --unix-socket"),
    (f"-w 4 {SITE}", "unknown option -w; here it is --workers"),
    (f"--limit-request-field_size 100 {SITE}", "here it is --max-head-size"),
    (f"--preload {SITE}", "unknown option --preload; each worker imports the application"),
    (f"-k gthread {SITE}", "unknown option -k; there is nothing to choose here"),
    (f"-b fd://3 {SITE}", "a descriptor is --fd NUMBER"),
    (f"-b unix:/run/s {SITE}", "a Unix socket is --unix-socket PATH"),
    (f"--verb 2 {SITE}", "unknown option --verb; did you mean"),
    (f"--port http {SITE}", "--port: 'http' is not a whole number"),
    (f"{SITE} --port", "--port: expected one argument"),
    (f"--reload=yes {SITE}", "--reload: ignored explicit argument 'yes'"),
    (f"--forwarded-allow-ips proxy {SITE}", "--forwarded-allow-ips: 'proxy'"),
    (f"--proxy-headers-host X-Real-IP {SITE}", "needs --proxy-headers"),
    (f"--config absent.toml {SITE}", "--config absent.toml: No such file"),
]


def test_other_servers_options_are_named_as_on_their_pages():
    """Where --uds is said to be --unix-socket here, a page about moving has a row with both."""
    pages = [ROOT / "docs" / "how-to" / f"move-from-{name}.md" for name in ("uvicorn", "gunicorn")]
    rows = [row.split("|") for page in pages for row in page.read_text().splitlines() if row.startswith("|")]
    ours = cli._parser()._option_string_actions
    for there in elsewhere.ABSENT:
        assert there not in ours
        assert any(re.search(rf"(?:`|[ ]){there}(?![\w-])", row[1]) for row in rows), f"no row has {there}"
    for there, here in elsewhere.NAMES.items():
        there = there.replace("field-size", "field_size")  # gunicorn's own spelling
        assert there not in ours
        spelt = "|".join(map(re.escape, ours[here].option_strings))
        assert any(
            re.search(rf"`{there}(?![\w-])|[ ]{there}(?![\w-])", row[1])
            and re.search(rf"`(?:{spelt})(?![\w-])|[ ](?:{spelt})(?![\w-])", row[2])
            for row in rows
        ), f"no row has {there} and {here}"


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_wrong_words_are_one_line_and_exit_code_2(line, said, served, capsys):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("daphne-like: ")
    assert err.count("\n") == 1
    assert said in err
    assert served == []


def test_unknown_variable_is_one_line_and_exit_code_2(served, capsys, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_MAX_BODY", "1")
    assert cli.main([SITE]) == 2
    assert "unknown environment variable DAPHNE_LIKE_MAX_BODY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("HOST", "here it is DAPHNE_LIKE_BIND"),
        ("LOG_LEVEL", "here it is DAPHNE_LIKE_VERBOSITY"),
        ("LOOP", "there is nothing to choose here"),
        ("MAX_BODY_SIZ", "did you mean DAPHNE_LIKE_MAX_BODY_SIZE?"),
    ],
)
def test_other_servers_variables_are_named(name, said, served, capsys, monkeypatch):
    monkeypatch.setenv(f"DAPHNE_LIKE_{name}", "1")
    assert cli.main([SITE]) == 2
    assert f"unknown environment variable DAPHNE_LIKE_{name}; {said}" in capsys.readouterr().err


FAILURES = [
    (ConfigurationError("x:y: two\n  lines"), 2, "daphne-like: x:y: two lines\n"),
    (StartupFailed("port 80 is in use"), 3, "daphne-like: port 80 is in use\n"),
    (
        StartupFailed("it raised", details="Traceback\n  line"),
        3,
        "Traceback\n  line\ndaphne-like: it raised\n",
    ),
    (KeyboardInterrupt(), 130, ""),
]


@pytest.mark.parametrize(("error", "code", "said"), FAILURES)
def test_what_running_raises_becomes_an_exit_code(error, code, said, served, capsys, monkeypatch):
    def run(*_):
        raise error

    monkeypatch.setattr(sys.modules["daphne_like.run"], "run", run)
    assert cli.main([SITE]) == code
    assert capsys.readouterr().err == said


def test_exit_code_of_running_is_handed_on(served, monkeypatch):
    monkeypatch.setattr(sys.modules["daphne_like.run"], "run", lambda *_: 7)
    assert cli.main([SITE]) == 7


def test_bug_of_ours_keeps_its_traceback(served, monkeypatch):
    monkeypatch.setattr(sys.modules["daphne_like.run"], "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main([SITE])


# -- what is printed ------------------------------------------------------------------------------


def test_help_names_every_flag():
    said = command("--help", timeout=30)
    assert said.returncode == 0
    assert said.stderr == ""
    for each in options():
        assert all(flag in said.stdout for flag in each.flags)
    assert "DAPHNE_LIKE_" in said.stdout


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom daphne_like.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(' '.join({'twisted', 'autobahn', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert said.stderr.strip() == ""


def test_version():
    said = command("--version", timeout=30)
    assert said.stdout.startswith(f"daphne-like {daphne_like.__version__} (")
    assert "Twisted " in said.stdout
    assert said.returncode == 0


def test_settings_are_printed_as_a_file_that_gives_them_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_BIND", "127.0.0.1,[::1]:81")
    words = ["settings", "site:app", "--unix-socket-mode", "600", "-t", "2.5", "-s", 'q"uo\\te', "--factory"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "unix_socket_mode = 0o600  # --unix-socket-mode" in printed
    assert 'bind = ["127.0.0.1", "[::1]:81"]  # DAPHNE_LIKE_BIND' in printed
    assert "# certificate is not set" in printed
    tomllib.loads(printed)
    path = tmp_path / "printed.toml"
    path.write_text(printed)
    again = resolve({}, config=str(path), environ={})
    assert again.application == "site:app"
    assert again.settings == Settings(
        bind=("127.0.0.1", "[::1]:81"),
        unix_socket_mode=0o600,
        http_timeout=2.5,
        server_name='q"uo\\te',
        factory=True,
    )


def test_settings_judges_words_as_serving_does(capsys):
    assert cli.main(["settings", "--port", "http"]) == 2
    assert capsys.readouterr().err == "daphne-like: --port: 'http' is not a whole number\n"


def test_reference_page_is_what_the_code_says(capsys):
    """After a change: daphne-like settings --markdown > docs/reference/settings.md"""
    assert cli.main(["settings", "--markdown"]) == 0
    assert (REFERENCE / "settings.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_command_line_page_names_every_command_line_only_flag():
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    for flag in ("--config", "--version", "--help", "--markdown"):
        assert f"`{flag}" in page


def test_closed_pipe_is_no_error():
    """`daphne-like settings --markdown | head -1`."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        said = subprocess.run(
            [sys.executable, "-m", "daphne_like", "settings", "--markdown"],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environ,
        )
    finally:
        os.close(writer)
    assert said.stderr == b""
    assert said.returncode == 0
