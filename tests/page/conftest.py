"""A painting page that is served, of an image and of a volume."""

from types import SimpleNamespace

import pytest
from painted import CLASSES, Client, image_of, served

from volseg.session import Session


@pytest.fixture(scope="module", params=[(14, 11), (12, 10, 8)], ids=["2d", "3d"])
def page(request, tmp_path_factory):
    """A session that is served, and a client that has the cookie."""
    size = request.param
    folder = tmp_path_factory.mktemp("paint") / "session"
    with Session(image_of(size), folder, CLASSES) as session, served(session) as serving:
        client = Client(serving.address)
        client.enter()
        yield SimpleNamespace(session=session, serving=serving, client=client, size=size)
