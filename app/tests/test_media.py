"""Upload, description, delivery and deletion of pictures."""

import hashlib
import io
import re

import pytest
from PIL import Image, ImageCms
from sqlalchemy import select

from blog.models import Media, db

from .conftest import count
from .pictures import picture, upload


def fetch(client, response) -> Image.Image:
    return Image.open(io.BytesIO(client.get(response.json["url"]).data))


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
    assert count(app, Media) == 1


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
    assert count(app, Media) == 0


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
    assert send_much(ada, "/author/media", 5).status_code == 400, "the body was read, but has no CSRF token"
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
    assert count(app, Media) == 0
    assert admin.send(path).status_code == 404


def test_deletion_lists_every_post_and_page_that_shows_the_picture(app, ada, admin):
    url = upload(ada, picture(colour="gold")).json["url"]
    with app.app_context():
        path = f"/author/media/{db.session.scalar(select(Media.id))}/delete"
    assert "No post and no page shows the picture." in admin.get(path).text
    escaped = url.replace("-", r"\-")  # Markdown removes the backslash
    for title, status, time in (
        ("Draft", "draft", ""),
        ("Public", "published", ""),
        ("Scheduled", "published", "2099-01-01T00:00"),
    ):
        fields = {"status": status, "published_at": time}
        admin.send("/author/posts/new", title=title, body=f"![x]({escaped})", **fields)
    admin.send("/author/pages/new", title="About", body=f"![x][p]\n\n[p]: {url}", position="0")
    admin.send("/author/posts/new", title="Other", body="Text.", status="draft")
    listed = re.findall(r'<li><a href="/author/(\w+)/\d+">(\w+)</a>', admin.get(path).text)
    assert listed == [("pages", "About"), ("posts", "Draft"), ("posts", "Public"), ("posts", "Scheduled")]


def test_deletion_counts_the_texts_that_it_does_not_list(app, ada, admin, add_posts):
    url = upload(ada, picture(colour="gold")).json["url"]
    add_posts(23, body=f"![x]({url})")
    with app.app_context():
        path = f"/author/media/{db.session.scalar(select(Media.id))}/delete"
    assert "<li>and 3 more</li>" in admin.get(path).text


def test_upload_is_stored_and_served_if_media_dir_cannot_be_written(make_app, ada, client, caplog):
    ada.application = client.application = make_app(MEDIA_DIR="/proc/nowhere")
    response = upload(ada, picture(colour="coral"))
    assert response.status_code == 201
    assert fetch(client, response).size == (60, 40)
    assert "MEDIA_DIR cannot be written" in caplog.text
