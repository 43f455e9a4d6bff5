"""A painting page that is served, and a plain client that can send it anything: for the tests of the page."""

import http.client
import itertools
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np

from volseg.page.serving import Serving

__all__ = ["CLASSES", "Client", "image_of", "served"]

CLASSES = {1: "lumen", 2: "wall"}
NUMBERS = itertools.count()


def image_of(size, seed=0):
    """Grey values that differ between two halves, with noise."""
    rng = np.random.default_rng(seed)
    image = (
        rng.normal(0, 3, size)
        + np.where(np.arange(size[0]) < size[0] // 2, 50, 150)[(..., *[None] * (len(size) - 1))]
    )
    return image[None].astype(np.float32)


@contextmanager
def served(session, port=None):
    """The server of a session, in a thread."""
    serving = Serving(session, port=port)
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        yield serving
    finally:
        serving.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"


class Client:
    """Requests as a page sends them, unless something else is said."""

    def __init__(self, address):
        parts = urlsplit(address)
        self.port, self.token = parts.port, parts.query.removeprefix("token=")
        self.origin = f"http://127.0.0.1:{self.port}"
        self.cookie = None

    def enter(self):
        answer = self.ask("GET", f"/?token={self.token}")
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def ask(self, method, path, body=None, headers=(), without=()):
        given = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        if method == "POST":
            given |= {"Origin": self.origin, "Content-Type": "application/json"}
        given |= dict(headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        if data is not None and "Transfer-Encoding" not in given:
            given.setdefault("Content-Length", str(len(data)))
        for name, value in given.items():
            if value is not None and name not in without:
                connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return SimpleNamespace(
            status=answer.status,
            headers=answer.headers,
            content=content,
            text=content.decode("utf-8", "replace"),
        )

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body, **more):
        return self.ask("POST", path, body, **more)

    def state(self):
        return json.loads(self.get("/state").content)

    def act(self, what, number=None, /, **fields):
        """An act of the tab that paints."""
        number = next(NUMBERS) if number is None else number
        answer = self.post(f"/{what}", {"client": "a tab", "id": f"act {number}", **fields})
        found = {"error": "", "changed": None, **json.loads(answer.content)}
        return SimpleNamespace(status=answer.status, **found)
