"""Who does not get in, and what does not bring the server down."""

import gzip
import json
import socket
from contextlib import suppress
from urllib.parse import quote

import pytest

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:"
STROKE = {"client": "a tab", "id": "1", "axis": 2, "index": 0, "points": [[1, 1]], "radius": 1, "value": 1}

pytestmark = pytest.mark.parametrize("page", [(12, 10, 8)], indirect=True, ids=["3d"])


@pytest.fixture(autouse=True)
def unharmed(page):
    """Whatever a test does, the server goes on, and nothing is painted."""
    before = page.session.revision
    yield
    assert page.client.get("/state").status == 200
    assert page.session.revision == before


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get(page):
    answer = page.client.get(f"/?token={page.client.token}", without=["Cookie"])
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert page.client.token not in answer.headers["Set-Cookie"]
    assert page.client.get("/").status == 200


@pytest.mark.parametrize(
    "path", ["/", "/state", "/static/main.js", "/image/2/0", "/layer/paint/2/0", "/events", "/report", "/no"]
)
def test_without_the_cookie_there_is_nothing(page, path):
    answer = page.client.get(path, without=["Cookie"])
    assert answer.status == 403
    assert "Open the whole address" in answer.text


@pytest.mark.parametrize("token", ["", "x", "%00", "%ff%fe", "%c3%a9", "a" * 5000])
def test_a_wrong_token_is_refused(page, token):
    assert page.client.get(f"/?token={token}", without=["Cookie"]).status == 403


@pytest.mark.parametrize(
    "cookie",
    [
        "volseg-{port}=",
        "volseg-{port}=x",
        "volseg-1={secret}",
        "other={secret}",
        "=;;=",
        "volseg-{port}={token}",
    ],
)
def test_a_wrong_cookie_is_refused(page, cookie):
    secret = page.client.cookie.partition("=")[2]
    text = cookie.format(port=page.client.port, secret=secret, token=page.client.token)
    assert page.client.get("/state", headers={"Cookie": text}).status == 403


def test_a_cookie_of_another_server_of_this_machine_does_not_hide_ours(page):
    name = page.client.cookie.partition("=")[0]
    assert (
        page.client.get("/state", headers={"Cookie": f"a=b; {name}=old; {page.client.cookie}"}).status == 200
    )


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "[::1]:{port}",
        "0.0.0.0:{port}",
        "",
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(page, host):
    answer = page.client.get(
        f"/?token={page.client.token}", headers={"Host": host.format(port=page.client.port)}
    )
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers


def test_both_names_of_this_machine_are_its_own(page):
    answer = page.client.get("/state", headers={"Host": f"LocalHost:{page.client.port}"})
    assert answer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:{port}"},  # the page's own, but it asked for 127.0.0.1
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": None},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/stroke", "/undo", "/save", "/claim", "/densify"])
def test_another_page_changes_nothing(page, headers, path):
    given = {k: v and v.format(port=page.client.port) for k, v in headers.items()}
    answer = page.client.post(path, STROKE, headers=given)
    assert (answer.status, answer.text.strip()) == (403, "Another page asked for this.")


@pytest.mark.parametrize("path", ["/state", "/events", "/image/2/0", "/report"])
@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_another_page_sees_nothing(page, path, headers):
    assert page.client.get(path, headers=headers).status == 403


def test_a_link_from_elsewhere_leads_in(page):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert page.client.get(f"/?token={page.client.token}", headers=headers).status == 303


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py",
        "/static//etc/passwd", "/static/page.html", "/static/", "/static/%00", "/report/../state.json",
        "/layer/journal/2/0", "/image/2/0/../../state", "//evil.example/", "/image/2", "/%ff",
    ],
)  # fmt: skip
def test_no_path_leads_to_files(page, path):
    assert page.client.get(path).status in (400, 404)


@pytest.mark.parametrize(
    "place", ["3/0", "-1/0", "2/-1", "2/99999", "2/1e3", "2/0x0", "٢/0", "2/9" + "9" * 5000, "a/b"]
)
@pytest.mark.parametrize("kind", ["image", "layer/paint", "layer/result"])
def test_a_slice_that_is_not_there_is_an_error_in_words(page, kind, place):
    answer = page.client.get(f"/{kind}/{quote(place)}")
    assert answer.status == 400
    assert "must be a whole number" in answer.text


@pytest.mark.parametrize("query", ["channel=1", "channel=-1", "channel=x", "channel=" + "9" * 6000])
def test_a_channel_that_is_not_there_is_an_error_in_words(page, query):
    assert page.client.get(f"/image/2/0?{query}").status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"axis": 3}, {"axis": -1}, {"axis": "2"}, {"axis": True}, {"axis": None}, {"axis": 2.0},
        {"index": 10**400}, {"index": -1}, {"index": [0]}, {"points": []}, {"points": "11"},
        {"points": [[1]]}, {"points": [[1, 2, 3]]}, {"points": [["1", 1]]}, {"points": [[1e7, 1]]},
        {"points": [[True, 1]]}, {"points": {"0": 1}}, {"points": [[0, 0]] * 50_001}, {"radius": -1},
        {"radius": "1"}, {"radius": 1e12}, {"radius": None}, {"value": 256}, {"value": -1}, {"value": 7},
        {"value": 1.5}, {"value": "lumen"}, {"id": ""}, {"id": 5}, {"id": "x" * 65}, {"id": "a\nb"},
        {"client": ""}, {"client": {}}, {"more": 1}, {"__proto__": {}},
    ],
    ids=lambda change: str(change)[:30],
)  # fmt: skip
def test_a_stroke_that_is_none_is_an_error_in_words(page, change):
    answer = page.client.post("/stroke", STROKE | change)
    assert answer.status == 400
    assert json.loads(answer.content)["error"].endswith(".")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"1", b"null", b'"text"', b"\xff\xfe\x00", b'{"points": NaN}',
        b'{"points": [[Infinity, 1]]}', b'{"radius": 1e999}', b'{"a":' * 200 + b"1" + b"}" * 200,
        b"[" * 100_000, b'{"index": ' + b"9" * 5000 + b"}", b'{"client": "a tab", "client": {}}',
        "é".encode("latin-1"),
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/stroke", "/class", "/look"])
def test_what_is_no_json_object_is_an_error_in_words(page, path, body):
    answer = page.client.post(path, body)
    assert answer.status == 400
    assert "Traceback" not in answer.text
    assert json.loads(answer.content)["error"].endswith(".")


def test_a_request_that_is_too_large_is_not_read_to_its_end(page):
    answer = page.client.post("/stroke", b'{"points": "' + b"x" * (5 << 20) + b'"}')
    assert answer.status == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"}, {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": None},
        {"Content-Type": "multipart/form-data"},
    ],
)  # fmt: skip
def test_packed_requests_and_forms_are_refused(page, headers):
    for body in (gzip.compress(bytes(1 << 20)), STROKE):
        answer = page.client.post("/stroke", body, headers=headers)
        assert answer.status == 400
        assert "must" in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "BREW"])
def test_other_methods_do_nothing(page, method):
    assert page.client.ask(method, "/stroke", headers={"Origin": page.client.origin}).status in (400, 405)


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n",
        b"POST /stroke HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /stroke HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /events HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"",
    ],
    ids=lambda data: repr(data[:24]),
)  # fmt: skip
def test_what_is_no_http_gets_nothing(page, data):
    answer = b""
    connection = socket.create_connection(("127.0.0.1", page.client.port), timeout=10)
    with connection, suppress(OSError):  # it need not hear out what is no HTTP
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


def test_everything_answered_forbids_scripts_of_others_and_being_kept(page):
    for path in ("/", "/state", "/static/main.js", "/image/2/0", "/nothing"):
        headers = page.client.get(path).headers
        assert headers["Content-Security-Policy"].startswith(POLICY)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Server" not in headers


def test_the_page_names_no_address_but_its_own(page):
    text = page.client.get("/").text
    names = [part.partition('"')[0] for part in text.split('href="')[1:] + text.split('src="')[1:]]
    assert all(name.startswith(("/static/", "#", "/report")) for name in names)
    for name in names:
        if name.startswith("/static/"):
            script = page.client.get(name)
            assert script.status == 200
            assert "http://" not in script.text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in script.text
