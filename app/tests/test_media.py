import contextlib
import ctypes
import hashlib
import io
import re
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image, ImageCms
from sqlalchemy import func, select
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from blog import create_app, media
from blog.models import Media, db


def picture(image_format="PNG", size=(60, 40), mode="RGB", colour="navy", **options) -> bytes:
    output = io.BytesIO()
    Image.new(mode, size, colour).save(output, image_format, **options)
    return output.getvalue()


def upload(client, data: bytes, name="boat.png", *, json=True, **fields):
    """Send a picture in a body made here, because the test client leaves a temporary file behind."""
    file = FileStorage(io.BytesIO(data), name, content_type="image/png")
    boundary, body = encode_multipart(fields | {"file": file, "csrf_token": client.token()})
    headers = {"Accept": "application/json" if json else "text/html"}
    content_type = f'multipart/form-data; boundary="{boundary}"'
    return client.post("/author/media", data=body, content_type=content_type, headers=headers)


def fetch(client, response) -> Image.Image:
    return Image.open(io.BytesIO(client.get(response.json["url"]).data))


def rows(app) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(Media))


def test_upload_from_the_editor_stores_and_serves_the_picture(app, ada, client):
    response = upload(ada, picture(), alt="A *boat*")
    assert response.status_code == 201
    url = response.json["url"]
    assert re.fullmatch(r"/media/[0-9a-f]{24}-60x40\.png", url)
    assert response.json["markdown"] == rf"![A \*boat\*]({url})"
    served = client.get(url)
    assert served.mimetype == "image/png"
    assert served.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in served.headers
    assert url.removeprefix("/media/")[:24] == hashlib.sha256(served.data).hexdigest()[:24]
    file = app.config["MEDIA_DIR"] / url.removeprefix("/media/")
    assert file.stat().st_mode & 0o777 == 0o644
    assert not list(app.config["MEDIA_DIR"].glob(".tmp*"))


def test_upload_works_without_a_script(app, ada):
    assert "No pictures yet." in ada.get("/author/media").text
    response = upload(ada, picture(colour="teal"), json=False, alt="Teal")
    assert response.status_code == 303
    assert response.location == "/author/media"
    page = ada.get("/author/media").text
    assert "![Teal](/media/" in page
    assert 'width="60" height="40" loading="lazy"' in page
    refused = upload(ada, b"not a picture", json=False)
    assert refused.status_code == 422
    assert "This is not a supported picture" in refused.text


def test_same_picture_is_stored_once(app, ada):
    data = picture(colour="olive")
    assert upload(ada, data).json == upload(ada, data, "other.png").json
    assert rows(app) == 1


def test_post_shows_a_picture_with_its_size(ada, client):
    url = upload(ada, picture()).json["url"]
    ada.send("/author/posts/new", title="A", body=f"![x]({url})", status="published")
    assert f'<img src="{url}" alt="x" width="60" height="40" loading="lazy">' in client.get("/posts/a").text


@pytest.mark.parametrize(
    ("data", "suffix", "mode"),
    [
        (picture("JPEG"), "jpg", "RGB"),
        (picture("JPEG", mode="CMYK", colour=(0, 0, 0, 0)), "jpg", "RGB"),
        (picture("JPEG", mode="L", colour=9), "jpg", "RGB"),
        (picture("PNG", mode="RGBA", colour=(1, 2, 3, 4)), "png", "RGBA"),
        (picture("PNG", mode="P", colour=1), "png", "RGB"),
        (picture("PNG", mode="P", colour=1, transparency=0), "png", "RGBA"),
        (picture("PNG", mode="LA", colour=(1, 2)), "png", "RGBA"),
        (picture("PNG", mode="1", colour=1), "png", "RGB"),
        (picture("GIF"), "png", "RGB"),
        (picture("WEBP"), "webp", "RGB"),
        (picture("WEBP", mode="RGBA", colour=(1, 2, 3, 4)), "webp", "RGBA"),
    ],
)
def test_every_format_is_re_encoded(ada, client, data, suffix, mode):
    response = upload(ada, data, "x.exe")
    assert response.status_code == 201, response.text
    assert response.json["url"].endswith("." + suffix)
    assert fetch(client, response).mode == mode


def test_metadata_of_a_picture_is_removed(ada, client):
    exif = Image.Exif()
    exif[0x010F] = "SECRET CAMERA"
    exif.get_ifd(0x8825)[1] = "N"
    for image_format, options in (
        ("JPEG", {"exif": exif, "comment": b"SECRET"}),
        ("PNG", {"exif": exif}),
        ("WEBP", {"exif": exif, "xmp": b"<x>SECRET</x>"}),
    ):
        data = picture(image_format, **options)
        assert b"SECRET" in data
        response = upload(ada, data)
        served = client.get(response.json["url"]).data
        assert b"SECRET" not in served
        image = Image.open(io.BytesIO(served))
        assert not image.getexif()
        assert not {"exif", "xmp", "comment", "icc_profile"} & image.info.keys()


def test_data_after_the_picture_is_removed(ada, client):
    response = upload(ada, picture("JPEG") + b"<script>alert(1)</script>")
    assert b"<script>" not in client.get(response.json["url"]).data


def test_photo_is_rotated_upright(ada, client):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert fetch(client, upload(ada, picture("JPEG", size=(60, 40), exif=exif))).size == (40, 60)


def test_colours_of_a_profile_are_converted(ada, client):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    response = upload(ada, picture("PNG", colour=(10, 200, 30), icc_profile=profile))
    pixel = fetch(client, response).getpixel((1, 1))
    assert all(abs(one - other) <= 2 for one, other in zip(pixel, (10, 200, 30), strict=True))
    assert upload(ada, picture("PNG", icc_profile=b"nonsense")).status_code == 201


def test_large_picture_is_scaled_down(ada, client):
    response = upload(ada, picture("JPEG", size=(6000, 3000)))
    assert fetch(client, response).size == (2560, 1280)
    assert response.json["url"].endswith("-2560x1280.jpg")
    assert fetch(client, upload(ada, picture("PNG", size=(3000, 2)))).size == (2560, 2)


def animation() -> bytes:
    output = io.BytesIO()
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(output, "GIF", save_all=True, append_images=frames[1:])
    return output.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Choose a picture."),
        (b"<script>alert(1)</script>", "This is not a supported picture"),
        (SVG, "This is not a supported picture"),
        (picture("TIFF"), "This is not a supported picture"),
        (picture("BMP"), "This is not a supported picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "This is not a supported picture"),
        (picture("JPEG", size=(600, 400))[:700], "damaged"),
        (picture("PNG", size=(600, 400))[:100], "damaged"),
        (animation(), "Animated pictures"),
        (picture("PNG", size=(8000, 8000), mode="1", colour=0), "8000 x 8000 pixels"),
        (picture("PNG", size=(30_000, 30_000), mode="1", colour=0), "30000 x 30000 pixels"),
        (picture("JPEG", size=(5000, 4000), mode="L", colour=0, progressive=True), "12.5 million"),
    ],
)
def test_upload_refuses_unsuitable_files(app, ada, data, words):
    response = upload(ada, data, "" if not data else "x.png")
    assert response.status_code == 422
    assert words in response.json["error"]
    assert rows(app) == 0


def test_upload_requires_a_file_and_a_valid_description(ada):
    for fields in ({}, {"file": "text"}):
        assert ada.send("/author/media", **fields).status_code == 422
    assert upload(ada, picture(), alt="\0").status_code == 422


def test_upload_requires_a_session_and_a_token(ada, client):
    assert upload(client, picture()).status_code == 403
    assert ada.post("/author/media", data={"file": (io.BytesIO(picture()), "x")}).status_code == 400


def send_much(client, path: str, megabytes: int):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
    body = head + b"\xff" * (megabytes * 1024 * 1024) + b"\r\n--x--\r\n"
    return client.post(path, data=body, content_type="multipart/form-data; boundary=x")


def test_only_signed_in_users_may_send_large_bodies(signed_in, client):
    ada = signed_in("Ada")
    assert send_much(ada, "/author/media", 5).status_code == 400, "it was read, and has no token"
    for somebody, path, megabytes in (
        (ada, "/author/media", 11),
        (ada, "/author/posts/new", 5),
        (client, "/author/media", 5),
        (client, "/login", 5),
    ):
        response = send_much(somebody, path, megabytes)
        assert response.status_code == 413
        assert "The request is too large" in response.text


@pytest.mark.parametrize("name", ["../secret", "..%2fsecret", ".lock", "x.png", "0" * 24 + "-1x1.png", "%00"])
def test_media_route_serves_only_pictures(app, ada, client, name):
    upload(ada, picture())
    assert client.get(f"/media/{name}").status_code == 404


def test_original_file_name_is_only_displayed(app, ada):
    upload(ada, picture(), "a<b>\u202e.png")
    with app.app_context():
        assert db.session.scalars(select(Media)).one().original_name == "a<b>.png"
    assert "a&lt;b&gt;.png" in ada.get("/author/media").text


def test_author_describes_a_picture(app, ada):
    upload(ada, picture())
    with app.app_context():
        path = f"/author/media/{db.session.scalar(select(Media.id))}"
    assert ada.send(path, alt="A boat").status_code == 303
    assert "![A boat](" in ada.get("/author/media").text
    ada.send(path, alt="x" * 501)
    assert "longer than 500" in ada.get("/author/media").text
    assert ada.send("/author/media/0", alt="x").status_code == 404


def test_only_an_administrator_deletes_a_picture(app, ada, admin, client):
    url = upload(ada, picture(colour="pink")).json["url"]
    admin.send("/author/posts/new", title="Shows it", body=f"![]({url})", status="draft")
    with app.app_context():
        path = f"/author/media/{db.session.scalar(select(Media.id))}/delete"
    assert ada.get(path).status_code == 403
    assert ada.send(path).status_code == 403
    assert "Shows it" in admin.get(path).text
    assert admin.head(path).status_code == 200
    assert client.get(url).status_code == 200
    assert admin.send(path).status_code == 303
    assert client.get(url).status_code == 404
    assert rows(app) == 0
    assert admin.send(path).status_code == 404


def test_upload_answers_503_if_media_dir_is_not_writable(settings, signed_in, caplog):
    ada = signed_in("Ada")
    app = create_app(settings | {"MEDIA_DIR": "/proc/nowhere"})
    ada.application = app
    response = upload(ada, picture(), json=False)
    assert response.status_code == 503
    assert "/proc/nowhere" in caplog.text
    with app.app_context():
        db.engine.dispose()


def webp_of_one_colour(width: int, height: int) -> bytes:
    """Return a lossless WebP of few bytes that takes much memory to read."""
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3)]
    fields += [(0, 3)]  # no transform, no colour cache, no meta codes
    fields += [(0b0001, 4)] * 5  # each code has one symbol: 0
    number = shift = 0
    for value, bits in fields:
        number |= value << shift
        shift += bits
    data = number.to_bytes(-(-shift // 16) * 2, "little")
    chunk = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(name: bytes, data: bytes, size=(60, 40)) -> bytes:
    """Return a PNG with a chunk before its pixels."""
    plain = picture(size=size)
    return plain[:33] + png_chunk(name, data) + plain[33:]


def png_that_inflates(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    packer = zlib.compressobj()
    pixels = b"".join(packer.compress(bytes(width * 8 + 1)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def jpeg_of_scans(scans: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan many times."""
    data = picture("JPEG", size=(3500, 3500), mode="L", colour=7, progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def jpeg_with_a_large_profile() -> bytes:
    segments = (
        b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes([number, 140]) + bytes(65_519) for number in range(1, 141)
    )
    plain = picture("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def much() -> bytes:
    return b"x\0\0" + zlib.compress(bytes(200_000_000))


BOMBS = {
    "webp": lambda: webp_of_one_colour(3530, 3530),
    "webp of the largest size": lambda: webp_of_one_colour(16_383, 16_383),
    "png": lambda: png_that_inflates(3530, 3530),
    "png with text": lambda: png_with(b"zTXt", much()),
    "png with a profile": lambda: png_with(b"iCCP", much()),
    "png with large exif": lambda: png_with(b"eXIf", b"MM\0*" + bytes(5_000_000)),
    "gif": lambda: picture("GIF", size=(3530, 3530)),
    "jpeg with a large profile": jpeg_with_a_large_profile,
}


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Fail if this process takes much memory inside the context, even if it frees it."""
    ctypes.CDLL(None).malloc_trim(0)  # reused memory from making pictures would not be counted
    before = memory_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    yield
    assert memory_kb("VmHWM") - before < 60_000


def memory_kb(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bomb_does_not_use_memory_of_the_blog(ada, bomb):
    data = BOMBS[bomb]()
    ada.get("/author/media")
    with little_memory():
        response = upload(ada, data)
    assert response.status_code in (201, 422), response.text
    assert upload(ada, picture()).status_code == 201


@pytest.mark.parametrize(
    ("image_format", "size", "mode", "options"),
    [
        ("WEBP", (3535, 3535), "RGB", {"quality": 1, "method": 0}),
        ("WEBP", (3535, 3535), "RGBA", {"lossless": True, "method": 0}),
        ("PNG", (3535, 3535), "RGBA", {"compress_level": 1}),
        ("PNG", (3535, 3535), "LA", {"compress_level": 1}),
        ("GIF", (3535, 3535), "L", {}),
        ("JPEG", (3535, 3535), "CMYK", {"progressive": True}),
        ("JPEG", (8600, 5800), "RGB", {}),
        ("JPEG", (8600, 5800), "CMYK", {}),
    ],
)
def test_largest_allowed_pictures_fit_into_the_memory_limit(ada, image_format, size, mode, options):
    colour = (77,) * len(mode) if mode != "LA" else (77, 200)
    assert upload(ada, picture(image_format, size, mode, colour, **options)).status_code == 201


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (webp_of_one_colour(3530, 3530), "damaged or too large"),
        (picture(size=(3500, 3500), mode="L", colour=1), "too much memory"),
    ],
)
def test_picture_that_needs_too_much_memory_is_refused(app, ada, monkeypatch, data, words):
    monkeypatch.setattr(media, "MEMORY_BYTES", 32 * 1024 * 1024)
    response = upload(ada, data)
    assert response.status_code == 422
    assert words in response.json["error"]
    assert rows(app) == 0
    monkeypatch.undo()
    assert upload(ada, picture()).status_code == 201


@pytest.mark.parametrize(("limit", "seconds"), [("CPU_S", 1), ("WALL_S", 0.5)])
def test_picture_that_takes_too_long_is_refused(ada, monkeypatch, limit, seconds):
    monkeypatch.setattr(media, limit, seconds)
    began = time.monotonic()
    response = upload(ada, jpeg_of_scans(20_000))
    assert response.status_code == 422
    assert "too long" in response.json["error"]
    assert time.monotonic() - began < 10
    monkeypatch.undo()
    assert upload(ada, picture()).status_code == 201


def test_author_and_log_are_told_about_a_killed_reader(ada, monkeypatch, tmp_path, caplog):
    killed = tmp_path / "killed.py"
    killed.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(media, "_READER", killed)
    response = upload(ada, picture())
    assert response.status_code == 422
    assert response.json["error"] == media.TOO_LARGE
    assert "the program that reads a picture ended with status -9" in caplog.text
    monkeypatch.undo()
    assert upload(ada, picture()).status_code == 201


def test_upload_is_refused_after_the_wait_limit(app, ada, monkeypatch):
    monkeypatch.setattr(media, "WAIT_S", 0.1)
    with media._one_at_a_time(app.config["MEDIA_DIR"]):
        response = upload(ada, picture())
    assert response.status_code == 422
    assert response.json["error"] == media.BUSY
    assert upload(ada, picture()).status_code == 201


def test_pictures_are_processed_one_at_a_time(tmp_path):
    running, most = [], 0

    def take() -> None:
        nonlocal most
        with media._one_at_a_time(tmp_path):
            running.append(1)
            most = max(most, len(running))
            Path(tmp_path, "x").write_text("x")
            running.pop()

    threads = [Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
