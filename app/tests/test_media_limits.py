"""The limits for uploaded pictures: memory, time, and the number of pictures at the same time."""

import struct
import time
import zlib
from pathlib import Path
from threading import Thread

import pytest

from blog import media
from blog.models import Media

from .conftest import count
from .pictures import little_memory, picture, upload


def webp_of_one_colour(width: int, height: int) -> bytes:
    """Return a lossless WebP with few bytes that needs much memory to read."""
    fields = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3)]
    fields += [(0, 3)]  # no transform, no colour cache, no meta codes
    fields += [(0b0001, 4)] * 5  # each code has only the symbol 0
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
    """Return a PNG with an additional chunk before its pixels."""
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
    assert count(app, Media) == 0
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


def test_kill_of_the_picture_process_is_reported_and_logged(ada, monkeypatch, tmp_path, caplog):
    killed = tmp_path / "killed.py"
    killed.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(media, "_READER", killed)
    response = upload(ada, picture())
    assert response.status_code == 422
    assert response.json["error"] == media.TOO_LARGE
    assert "the program that reads a picture ended with status -9" in caplog.text
    monkeypatch.undo()
    assert upload(ada, picture()).status_code == 201


def test_upload_is_refused_when_all_pictures_together_reach_their_limit(app, ada, monkeypatch, tmp_path):
    monkeypatch.setitem(app.config, "MEDIA_DIR", tmp_path)
    first = upload(ada, picture())
    path = tmp_path / first.json["url"].removeprefix("/media/")
    monkeypatch.setitem(app.config, "MAX_MEDIA_BYTES", path.stat().st_size + 50)
    path.unlink()
    refused = upload(ada, picture(colour="teal"))
    assert (refused.status_code, refused.json["error"]) == (422, media.FULL)
    assert count(app, Media) == 1
    assert upload(ada, picture()).status_code == 201, "the same picture needs no more space"


def test_files_that_belong_to_no_picture_do_not_count_towards_the_limit(app, ada, monkeypatch, tmp_path):
    monkeypatch.setitem(app.config, "MEDIA_DIR", tmp_path)
    monkeypatch.setitem(app.config, "MAX_MEDIA_BYTES", 10_000)
    (tmp_path / "other").write_bytes(bytes(20_000))
    assert upload(ada, picture()).status_code == 201


def test_upload_is_refused_after_the_wait_limit(app, ada, monkeypatch):
    monkeypatch.setattr(media, "WAIT_S", 0.1)
    with media._one_at_a_time(app.config["MEDIA_DIR"]):
        response = upload(ada, picture())
    assert response.status_code == 422
    assert response.json["error"] == media.BUSY
    assert upload(ada, picture()).status_code == 201


@pytest.mark.parametrize("folder", [None, Path("/proc/nowhere")], ids=["media dir", "no media dir"])
def test_pictures_are_processed_one_at_a_time(tmp_path, folder):
    running, most = [], 0

    def take() -> None:
        nonlocal most
        with media._one_at_a_time(folder or tmp_path):
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
