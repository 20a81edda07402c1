import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blog.markdown import SUMMARY_CHARACTERS, render
from renderer import words

CHINESE = "操作系统内核负责管理计算机的硬件资源，并为应用程序提供运行环境。"
JAPANESE = "港には毎朝たくさんの船が入ってきて、町の人々は市場で魚を買う。"
THAI = "ภาษาไทยเป็นภาษาที่เขียนโดยไม่มีการเว้นวรรคระหว่างคำ"
LATIN = st.text(st.characters(max_codepoint=0x24F), max_size=400)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("One two – three.", 4),
        ("Привет, мир", 2),
        ("مرحبا بالعالم", 2),
        ("한국어 블로그", 2),
        ("東京", 1),
        ("内核调度", 2),
        ("Linux内核的调度", 4),
        ("船、港。", 1),
        (CHINESE, 15),
        (THAI, 11),
    ],
)
def test_words_are_counted_in_any_script(text, number):
    assert words.count(text) == number


@given(text=LATIN)
def test_words_of_latin_text_are_what_stands_between_spaces(text):
    assert words.count(text) == len(text.split())


@pytest.mark.parametrize(("number", "minutes"), [(0, 1), (329, 1), (331, 2), (2200, 10)])
def test_reading_time_follows_the_number_of_words(number, minutes):
    assert words.minutes(number) == minutes


@pytest.mark.parametrize("sentence", [CHINESE, JAPANESE])
def test_summary_of_a_text_without_spaces_ends_after_a_phrase(sentence):
    summary = render(sentence * 30).summary
    assert SUMMARY_CHARACTERS // 2 < len(summary) <= SUMMARY_CHARACTERS
    assert summary.endswith(("。…", "，…", "、…"))


def test_summary_of_a_text_without_spaces_splits_no_letter():
    text = "ก" * 100 + "ก\u0e34" * 200
    summary = render(text).summary.removesuffix("…")
    assert len(summary) > SUMMARY_CHARACTERS // 2
    assert not unicodedata.category(text[len(summary)]).startswith("M")


@pytest.mark.parametrize(
    "paragraph", [CHINESE, JAPANESE, "Порт просыпается рано, и первые лодки уходят в море ещё до рассвета."]
)
def test_summary_is_the_first_paragraph_with_enough_words(paragraph):
    assert render(f"短い。\n\n{paragraph}\n\nMore.").summary == paragraph


@given(text=st.text(max_size=600))
def test_shortened_text_keeps_to_its_limit(text):
    assert len(words.shorten(text, 220)) <= 220


@given(text=st.lists(st.text("abcdefghij", min_size=1, max_size=12), max_size=80).map(" ".join))
def test_text_with_spaces_is_cut_between_words(text):
    short = words.shorten(text, 220)
    assert short == text or text.startswith(short.removesuffix("…"))
