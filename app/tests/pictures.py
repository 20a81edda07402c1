"""Helpers for the tests of pictures."""

import io

from PIL import Image
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart


def picture(image_format="PNG", size=(60, 40), mode="RGB", colour="navy", **options) -> bytes:
    output = io.BytesIO()
    Image.new(mode, size, colour).save(output, image_format, **options)
    return output.getvalue()


def upload(client, data: bytes, name="boat.png", *, json=True, **fields):
    """Upload a picture. The body is built here, because the test client would leave a temporary file."""
    file = FileStorage(io.BytesIO(data), name, content_type="image/png")
    boundary, body = encode_multipart(fields | {"file": file, "csrf_token": client.token()})
    headers = {"Accept": "application/json" if json else "text/html"}
    content_type = f'multipart/form-data; boundary="{boundary}"'
    return client.post("/author/media", data=body, content_type=content_type, headers=headers)
