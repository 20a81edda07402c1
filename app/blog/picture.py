"""Re-encode a picture. This is a separate program, because a small file can need much memory and time.

    python -I picture.py MEMORY_BYTES CPU_SECONDS < picture > answer

The answer is a line of JSON, followed by the new picture. The JSON has `format` and `size`, or `problem`: the
reason why the picture is refused. If the program reaches a limit, it ends without an answer, with an error
or by a signal.
"""

import io
import json
import resource
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# Load the plugin for WebP before the limits apply. Image.open loads the plugins of the other formats, but for
# WebP it would load all plugins of Pillow.
import_module("PIL.WebPImagePlugin")

LONGEST_EDGE = 2560
MAX_PIXELS = 12_500_000  # a copy in memory takes 50 MB, and reading a WebP takes four copies
MAX_PIXELS_OF_A_PHOTO = 4 * MAX_PIXELS  # a JPEG that is not progressive can be read at half size

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is not needed, because the limits above are lower

_WRITTEN_AS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "GIF": "PNG"}
_OPTIONS: dict[str, dict[str, int]] = {
    "JPEG": {"quality": 85, "progressive": True, "optimize": True},
    "PNG": {},
    "WEBP": {"quality": 85},
}


class PictureError(Exception):
    """The picture is refused. The message tells the author why."""


def rewrite(stream: IO[bytes]) -> tuple[bytes, str, tuple[int, int]]:
    """Re-encode a picture. Return the new picture, its format (JPEG, PNG or WEBP) and its size in pixels.

    The new picture is upright, in sRGB, at most LONGEST_EDGE pixels wide and high, and has no metadata.
    Raises PictureError or MemoryError.
    """
    try:
        image, written_as = _read(stream)
        picture = _to_srgb(_upright_and_small(image), written_as)
        picture.info.clear()
        output = io.BytesIO()
        picture.save(output, written_as, **_OPTIONS[written_as])
    except UnidentifiedImageError as error:
        raise PictureError("This is not a supported picture. Choose a JPEG, PNG, WebP or GIF.") from error
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # Pillow raises various types for broken data or too little memory
        raise PictureError(
            "This picture is damaged or too large. Save it as JPEG or make it smaller, then try again."
        ) from error
    return output.getvalue(), written_as, picture.size


def _read(stream: IO[bytes]) -> tuple[Image.Image, str]:
    """Return a copy of the picture, and the format to write. The decoder is closed to free its memory."""
    with Image.open(stream, formats=("JPEG", "PNG", "WEBP", "GIF")) as image:
        _refuse_unsuitable(image)
        if image.width * image.height > MAX_PIXELS:
            image.draft("RGB", (image.width // 2, image.height // 2))
        return image.copy(), _WRITTEN_AS[image.format or ""]


def _refuse_unsuitable(image: Image.Image) -> None:
    """Refuse pictures that are animated or too large. Only the header is read, which takes little memory."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise PictureError("Animated pictures are not supported. Choose a still picture.")
    is_photo = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    limit = MAX_PIXELS_OF_A_PHOTO if is_photo else MAX_PIXELS
    if image.width * image.height > limit:
        raise PictureError(
            f"This picture has {image.width} x {image.height} pixels. "
            f"Make it smaller: the limit is {limit / 1_000_000:g} million."
        )


def _upright_and_small(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, most of which convert() would make white
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):  # a palette image cannot be scaled smoothly
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.LANCZOS)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_srgb(image: Image.Image, written_as: str) -> Image.Image:
    """Return the picture in sRGB, as RGB or RGBA."""
    profile = image.info.get("icc_profile")
    transparent = written_as != "JPEG" and image.has_transparency_data
    mode = "RGBA" if transparent else "RGB"
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            output_mode = "RGBA" if image.mode == "RGBA" else "RGB"
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode=output_mode
            )
            if converted is not None:  # profileToProfile returns None only for a conversion in place
                return converted.convert(mode)
    return image if image.mode == mode else image.convert(mode)


def _limit(memory_bytes: int, cpu_s: int) -> None:
    """Limit memory and CPU time. If the container runs out of memory, the kernel ends this process first."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # some systems have no /proc
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(stream: IO[bytes], data: bytes, **line: object) -> None:
    stream.write(json.dumps(line).encode() + b"\n")
    stream.write(data)


def main() -> None:
    """Read the picture from standard input and write the answer to standard output."""
    _limit(*map(int, sys.argv[1:]))
    with open(0, "rb") as source, open(1, "wb") as answer:
        source.seek(0)
        try:
            data, image_format, size = rewrite(source)
        except PictureError as error:
            _answer(answer, b"", problem=str(error))
        else:
            _answer(answer, data, format=image_format, size=size)


if __name__ == "__main__":
    main()
