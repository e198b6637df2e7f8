"""Who may do what at the server's and the client's doors: requests, and an app of a stranger."""

import asyncio
import base64
import contextlib
import datetime
import http.client
import os
import shlex
import ssl
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs the environment that `make dist` creates (Flower)")

from click.testing import CliRunner
from flwr.cli.build import build_fab_from_disk

from fedgru.cli.main import main
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.version import __version__
from fedgru.deploy import bundle, flower, processes
from fedgru.deploy.app import PACKAGE

ROOT = Path(__file__).parents[2]
SMALL = ["--features", "category,clock", "--hidden-dim", "4", "--prior", "none"]


def typed(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def app_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apps") / "places"
    told = typed("deploy", "app", folder, *SMALL).stderr
    assert f"SHA-256 of the app, for its clients: {bundle.sha256_of_folder(folder)}" in told
    return folder


@pytest.fixture
def places(app_folder, tmp_path):
    """A copy of an app, to be changed."""
    subprocess.run(["cp", "-r", app_folder, tmp_path / "places"], check=True)
    return tmp_path / "places"


def refusal(content, apps):
    with pytest.raises(DataError) as error:
        bundle.check(content, apps)
    return str(error.value)


def test_the_first_app_is_joined_and_no_other(app_folder, places, tmp_path):
    apps, first = tmp_path / bundle.APPS, build_fab_from_disk(app_folder)
    sha256 = bundle.sha256_of_folder(app_folder)
    assert bundle.check(first, apps) == sha256
    assert bundle.check(first, apps) == sha256
    settings = places / PACKAGE / "settings.toml"
    settings.write_text(settings.read_text().replace("rounds = ", "rounds = 1"))
    other = bundle.sha256_of_folder(places)
    assert other != sha256
    said = refusal(build_fab_from_disk(places), apps)
    assert said == (
        f"refused: the server sends another app than {sha256[:12]}..., which this client has "
        "joined. If you want to take part in it and trust its operator, who can tell you the app's "
        f"SHA-256, take part with --allow-app {other}"
    )
    bundle.allow(tmp_path, [other])
    assert bundle.check(build_fab_from_disk(places), apps) == other
    assert bundle.check(first, apps) == sha256
    with pytest.raises(ConfigError, match="`allow_app` is 'abc', expected the 64 hex digits"):
        bundle.allow(tmp_path, ["abc"])


@pytest.mark.parametrize(
    "name, change",
    [
        (f"{PACKAGE}/client_app.py", lambda text: text + "\nimport os\n"),
        (f"{PACKAGE}/__init__.py", lambda text: "import os\n"),
        ("json.py", lambda text: "import os\n"),  # would be found before Python's own
        ("pyproject.toml", lambda text: text.replace(f"{PACKAGE}.client_app:app", "os:system")),
    ],
)
def test_code_of_another_is_refused_whatever_its_name(places, tmp_path, name, change):
    file = places / name
    file.write_text(change(file.read_text() if file.exists() else ""))
    said = refusal(build_fab_from_disk(places), tmp_path / bundle.APPS)
    assert said.startswith(
        f"refused: the server sends an app whose {name} is not fedgru's. It would"
    )
    assert not (tmp_path / bundle.APPS).exists()


def test_an_app_of_another_version_says_what_to_do(places, tmp_path):
    for name in ("pyproject.toml", f"{PACKAGE}/client_app.py"):
        file = places / name
        file.write_text(file.read_text().replace(__version__, "9.0.0") + "\n# new\n")
    said = refusal(build_fab_from_disk(places), tmp_path / bundle.APPS)
    assert said.startswith(
        f"refused: the app was made by fedgru 9.0.0, here is {__version__}, and its "
        f"{PACKAGE}/client_app.py differs. Install the operator's version, or ask for the app to "
        "be made again with yours."
    )


def test_what_is_no_app_is_refused(tmp_path):
    def zipped(files):
        content = BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return content.getvalue()

    apps = tmp_path / bundle.APPS
    assert "is no app" in refusal(b"nothing", apps)
    assert "is no app of Flower" in refusal(zipped({"a.py": b""}), apps)
    bomb = zipped({"pyproject.toml": b" " * (bundle.MAX_UNPACKED_BYTES + 1)})
    assert len(bomb) < 1 << 20 and "unpacks to too much" in refusal(bomb, apps)
    assert "pyproject.toml is damaged" in refusal(zipped({"pyproject.toml": b"\xff"}), apps)


class Behind:
    """What is behind the doors: it reads the whole body."""

    def __init__(self):
        self.read = None

    async def __call__(self, scope, receive, send):
        self.read = 0
        while True:
            message = await receive()
            self.read += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})


def status(doors, path, size=0, client="127.0.0.1", chunks=1, state=None, **headers):
    """Return (status, bytes received) of a request."""
    sent, received = [], []

    async def receive():
        received.append(size)
        return {"type": "http.request", "body": bytes(size), "more_body": len(received) < chunks}

    async def send(message):
        sent.append(message)

    given = {"content-length": str(size)} | {k.replace("_", "-"): v for k, v in headers.items()}
    scope = {
        "type": "http", "path": path, "client": (client, 5), "server": ("10.0.0.1", 9092),
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items() if v is not None],
        "app": SimpleNamespace(state=state or SimpleNamespace(enable_supernode_auth=False)),
    }  # fmt: skip
    asyncio.run(doors(scope, receive, send))
    return sent[0]["status"] if sent else None, sum(received)


def test_what_the_doors_let_pass():
    doors = flower.Doors(Behind(), "secret", max_bytes=1000)
    for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/openapi.json"):
        assert status(doors, path) == (403, 0)
        assert status(doors, path, x_fedgru_secret="guess") == (403, 0)
        assert status(doors, path, x_fedgru_secret="secret")[0] == 200
        # from another machine not even with it; a header of a proxy changes nothing
        assert status(doors, path, client="10.0.0.7", x_fedgru_secret="secret") == (403, 0)
        assert status(doors, path, client="10.0.0.7", x_forwarded_for="127.0.0.1") == (403, 0)
    assert status(doors, "/health", client="10.0.0.7")[0] == 200
    assert status(doors, "/v1/fleet/push-object", 1000, client="10.0.0.7")[0] == 200
    assert status(doors, "/v1/fleet/push-object", 1001, client="10.0.0.7") == (413, 0)
    chunked = {"transfer_encoding": "chunked", "content_length": None}
    assert status(doors, "/v1/fleet/push-object", 10, chunks=500, **chunked) == (411, 0)
    behind = Behind()
    status(flower.Doors(behind, "s", max_bytes=1000), "/v1/fleet/x", 600, chunks=9)  # it lies
    assert behind.read <= 1000


def test_a_body_waits_for_a_registered_key(monkeypatch):
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

    (ann, public), (stranger, _) = generate_key_pairs(), generate_key_pairs()
    registered, asked, now = {public_key_to_bytes(public)}, [], [100.0]

    class LinkState:
        def state(self):
            return self

        def get_node_id_by_public_key(self, key):
            asked.append(key)
            return 7 if key in registered else None

    behind = Behind()
    doors = flower.Doors(behind, "secret", max_bytes=1000)
    monkeypatch.setattr(flower.time, "monotonic", lambda: now[0])
    state = SimpleNamespace(enable_supernode_auth=True, linkstate_factory=LinkState())

    def ask(headers):
        return status(doors, "/v1/fleet/push-object", 10, state=state, **headers)[0]

    assert ask({}) == 401 and ask(signed(stranger)) == 401
    forged = signed(ann) | {n: v for n, v in signed(stranger).items() if "signature" in n.lower()}
    assert ask(forged) == 401
    assert behind.read is None
    assert ask(signed(ann)) == 200 and behind.read == 10
    assert ask(signed(ann)) == 200 and len(asked) == 2  # the stranger's and ann's, once each
    registered.clear()
    now[0] += flower.KNOWN_S
    assert ask(signed(ann)) == 401  # withdrawn


def test_a_key_posts_no_more_than_it_is_asked_for(monkeypatch):
    doors, now = flower.Doors(Behind(), "secret", max_bytes=1000), [0.0]
    monkeypatch.setattr(flower.time, "monotonic", lambda: now[0])
    for _ in range(4):
        doors._count(b"ann", 1000)
    with pytest.raises(flower.Refused) as error:
        doors._count(b"ann", 1)
    assert error.value.status == 429
    doors._count(b"ben", 1000)
    now[0] = 5.0  # half of one in 5 s
    doors._count(b"ann", 500)
    with pytest.raises(flower.Refused):
        doors._count(b"ann", 1)


def test_nothing_is_taken_while_the_database_is_too_large(tmp_path):
    queue = tmp_path / "superlink.db"
    doors = flower.Doors(Behind(), "secret", max_bytes=1000, queue=str(queue))
    queue.write_bytes(b"")
    os.truncate(queue, flower.QUEUE_BYTES)
    assert status(doors, "/v1/fleet/push-object", 10)[0] == 200
    (tmp_path / "superlink.db-wal").write_bytes(b"x")
    assert status(doors, "/v1/fleet/push-object", 10)[0] == 507
    assert status(doors, "/v1/fleet/pull-messages", 0)[0] == 200


@pytest.fixture(scope="module")
def live(app_folder, tmp_path_factory):
    """A server that waits for two clients; every proxy is believed, says its environment."""
    folder = tmp_path_factory.mktemp("live")
    port = processes.free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        typed("deploy", "certificate", "certificates", "--host", "localhost")
        typed("deploy", "key", "ann")
        Path("keys").mkdir()
        Path("keys/ann.pub").write_bytes(Path("ann.pub").read_bytes())
    words = f"deploy server {app_folder} --clients 2 --port {port} --folder state"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FORWARDED_ALLOW_IPS": "*"}
    with open(folder / "err", "wb") as err:
        server = subprocess.Popen(
            [sys.executable, "-m", "fedgru", *shlex.split(words)],
            cwd=folder, env=environment, stdout=err, stderr=err,
        )  # fmt: skip
    log = folder / "err"
    up = processes.wait_until(lambda: "waiting for clients: 0 of 2" in log.read_text(), 600)
    yield SimpleNamespace(folder=folder, port=port, said=log.read_text())
    server.terminate()
    server.wait(60)
    assert up, log.read_text()


def resident_kib(folder):
    """{process id: KiB of memory} of the programs of a server."""
    home, found = f"FLWR_HOME={folder / 'state/flower'}".encode(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if home in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "status").read_text().split()
                found[int(entry.name)] = int(words[words.index("VmRSS:") + 1])
    return found


def post(live, path, size, headers=()):
    """Post a body of zeros; return the status, None where the connection was closed."""
    context = ssl.create_default_context(cafile=live.folder / "certificates/ca.crt")
    connection = http.client.HTTPSConnection("localhost", live.port, context=context, timeout=60)
    connection.putrequest("POST", path)
    for name, value in {"Content-Length": str(size), **dict(headers)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    block = bytes(1 << 20)
    with contextlib.suppress(OSError):
        for begin in range(0, size, len(block)):
            connection.send(block[: size - begin])
    try:
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def signed_by(live):
    """The headers of Flower's node authentication, of the registered key."""
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    return signed(load_ssh_private_key((live.folder / "ann").read_bytes(), None))


def signed(private):
    """The headers of Flower's node authentication, by a private key."""
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    now = datetime.datetime.now(datetime.UTC).isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(
            public_key_to_bytes(private.public_key())
        ).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(private, now.encode())).decode(),
        TIMESTAMP_HEADER: now,
    }


@pytest.mark.slow
def test_any_local_account_at_the_control_api(live):
    for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task"):
        assert post(live, path, 0) == 403
        assert post(live, path, 0, {"X-Forwarded-For": "127.0.0.1"}) == 403
        assert post(live, path, 0, {"X-Fedgru-Secret": "0" * 64}) == 403
    assert "SHA-256 of the app, for its clients: " in live.said
    # Flower's own command line, as another account would use it
    home = live.folder / "elsewhere"
    home.mkdir()
    ca = live.folder / "certificates/ca.crt"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "x"\n\n[superlink.x]\naddress = "localhost:{live.port}"\n'
        f'root-certificates = "{ca}"\n'
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("flwr"), "list", "x", "--format", "json"],
        env=os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
    )
    assert '"success": true' not in done.stdout.lower(), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("size", [300_000_000, 1_000_000_000])
@pytest.mark.parametrize("signed", [False, True], ids=["keyless", "keyed"])
def test_a_large_body_takes_no_memory(live, size, signed):
    headers = signed_by(live) if signed else {}
    small = post(live, "/v1/fleet/push-object", 0, headers)
    assert small != 401 if signed else small == 401  # with a key, it comes to Flower's own checks
    before = resident_kib(live.folder)
    assert len(before) >= 2
    assert post(live, "/v1/fleet/push-object", size, headers) in (401, 413, None)
    after = resident_kib(live.folder)
    grown = {pid: after[pid] - kib for pid, kib in before.items() if pid in after}
    assert max(grown.values()) < 50 << 10, grown
    assert sum((live.folder / "state" / n).stat().st_size for n in ("superlink.db",)) < 10 << 20
