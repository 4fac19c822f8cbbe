"""Uploading to a hub: a local server takes the place of the hub, and the client is the real one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import multidelete
import tiny
import zoo
from multidelete import MultiDelete


class Hub(BaseHTTPRequestHandler):
    """What a hub answers to the creation of a repository and to a commit."""

    requests: list[tuple[str, bytes]]
    allowed: bool

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length) if length else self.read_chunks()
        self.requests.append((self.path, content))
        answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/me/model"}
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(content)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/commit/" in self.path:
            answer = {
                "commitUrl": f"http://{self.headers['Host']}/me/model/commit/1",
                "commitOid": "1",
                "success": True,
            }
        body = json.dumps(answer if self.allowed else {"error": "Invalid username or password."}).encode()
        self.send_response(200 if self.allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"requests": [], "allowed": True})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler
    server.shutdown()


def push(hub: Any, *words: str) -> subprocess.CompletedProcess[str]:
    # The address of the hub is read when its client is imported.
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "multidelete", "push", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_model_of_a_run_is_uploaded_and_nothing_else(hub: Any, tmp_path: Path) -> None:
    folder = zoo.write("clip", tmp_path / "clip")
    method = MultiDelete(epochs=1, min_steps=2, evaluations=0)
    multidelete.unlearn(folder, tiny.dataset(), 3, method, engine=tiny.engine(), out=tmp_path / "run")
    ended = push(hub, str(tmp_path / "run"), "me/model", "--private")
    assert ended.returncode == 0, ended.stderr
    assert "model uploaded to http://" in ended.stdout
    created, *_, (path, commit) = hub.requests
    assert created[0] == "/api/repos/create"
    assert json.loads(created[1])["visibility"] == "private"
    assert path == "/api/models/me/model/commit/main"
    lines = [json.loads(line)["value"] for line in commit.splitlines() if json.loads(line)["key"] == "file"]
    written = {path.name: path.read_bytes() for path in (tmp_path / "run" / "model").iterdir()}
    assert {line["path"]: base64.b64decode(line["content"]) for line in lines} == written


def test_what_is_refused(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = push(hub, str(tmp_path / "empty"), "me/model")
    assert ended.returncode == 2
    assert "is not a model folder: it has no config.json" in ended.stderr
    assert not hub.requests
    hub.allowed = False
    zoo.write("clip", tmp_path / "clip")
    ended = push(hub, str(tmp_path / "clip"), "me/model")
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "was not uploaded to me/model: " in line
    assert "log in with hf auth login" in line
