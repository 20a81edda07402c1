"""Helpers for the tests of pictures."""

import contextlib
import ctypes
import io
import re
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Fail if this process allocates much memory inside the context, even if it frees the memory again."""
    ctypes.CDLL(None).malloc_trim(0)  # return free memory, because its reuse would not be counted
    before = memory_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # this resets the peak
    yield
    assert memory_kb("VmHWM") - before < 60_000


def memory_kb(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
