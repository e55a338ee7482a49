"""`bioclip2 convert` from the Hub, of which a small part stands in on this machine."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from kept_models import export_open_clip, read
from test_convert_forms import CONFIG, PREPROCESS, call, names_in, random_params

from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.weights.open import WEIGHTS_FILE


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download takes."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self):  # noqa: N802
        self.do_GET(body=False)

    def do_GET(self, body=True):  # noqa: N802
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/org/model/tree/{self.commit}"):
            files = [
                {"type": "file", "path": x.name, "size": x.stat().st_size, "oid": "0"}
                for x in self.folder.iterdir()
            ]
            return self.answer(json.dumps(files).encode(), body, {})
        if path.startswith("/api/models/org/model"):
            if not path.endswith(("/main", "/v1", self.commit, "/model")):
                return self.refuse("RevisionNotFound")
            files = [{"rfilename": name} for name in names_in(self.folder)]
            reply = {"id": "org/model", "sha": self.commit, "siblings": files, "tags": []}
            return self.answer(json.dumps(reply | {"private": False}).encode(), body, {})
        file = self.folder / path.rpartition("/")[2]
        if not path.startswith("/org/model/resolve/"):
            return self.refuse("RepoNotFound")
        if not file.is_file():
            return self.refuse("EntryNotFound")
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": self.commit}
        return self.answer(data, body, headers)

    def answer(self, data, body, headers):
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def refuse(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the model that it has."""
    import huggingface_hub.constants as constants

    folder = tmp_path / "open_clip"
    export_open_clip(random_params(CONFIG), CONFIG, PREPROCESS, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(FakeHub, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()


def test_a_model_on_the_hub_is_fetched_with_its_commit_and_checksum_shown(hub, tmp_path):
    result = call("hf-hub:org/model@v1", tmp_path / "ours")
    assert result.exit_code == 0, result.exception
    digest = hashlib.sha256((hub / WEIGHTS_FILE).read_bytes()).hexdigest()
    assert FakeHub.commit in result.output and f"sha256 {digest}" in result.output
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path / "ours")[1], read(hub)[1])


def test_a_model_that_the_hub_does_not_have_is_named(hub, tmp_path):
    for name, words in (
        ("hf-hub:org/other", "org/other: cannot be fetched"),
        ("hf-hub:org/model@v9", "v9: cannot be fetched"),
        ("hf-hub:model", "ORGANISATION/MODEL"),
    ):
        result = call(name, tmp_path / "x")
        assert isinstance(result.exception, UserError) and words in str(result.exception)
        assert not (tmp_path / "x").exists()
    assert isinstance(
        call("hf-hub:org/model@a", tmp_path / "x", "--revision", "b").exception, UsageError
    )
