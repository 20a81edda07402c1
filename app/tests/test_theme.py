import re

import pytest

from blog import assets

CSS = assets.FOLDER.joinpath("style.css").read_text()
GROUNDS = ("ground", "raised", "field")
TEXTS = ("text", "muted", "accent", "danger", "code-comment", "code-keyword", "code-string")
TEXTS += ("code-name", "code-number", "code-error")


def palette(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css))


def luminance(colour: str) -> float:
    channels = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_colour_has_the_contrast_of_wcag_aa(scheme):
    light, dark = CSS.split("@media screen and (prefers-color-scheme: dark)")[:2]
    colours = palette(light) if scheme == "light" else palette(dark.partition("\n}\n")[0])
    for text in TEXTS:
        for ground in GROUNDS:
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"
    for ground in ("ground", "field"):
        assert contrast(colours["edge"], colours[ground]) >= 3, f"the edge of a field on {ground}"


def test_style_sheet_loads_no_other_file():
    assert "url(" not in CSS
    assert "@import" not in CSS
