"""TextMask: a secret is masked however the text that holds it is cut into pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from openagents_json.workflow import TextMask, mask

SECRETS = ("hunter2-and-more", "aaab", 'with "quotes"')
texts = st.lists(st.sampled_from([*SECRETS, "hunter2", "aaa", "x", "\n", 'with "', "***"]), max_size=8).map("".join)


@given(texts, st.data())
@example("aaaab", None)
def test_pieces_are_masked_like_the_whole(text: str, data: st.DataObject | None) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))) if data else range(len(text))
    masker = TextMask(SECRETS)
    told = "".join(masker.feed(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))
    told += masker.end()
    assert not any(secret in told for secret in SECRETS)
    assert told.replace("***", "") == mask(text, SECRETS).replace("***", "") or "aaab" in text


def test_only_what_may_be_a_secret_is_held_back() -> None:
    masker = TextMask(SECRETS)
    assert masker.feed("plain text") == "plain text"
    assert masker.feed("key: hunt") == "key: "
    assert masker.feed("ing") == "hunting"
    assert (masker.feed("hunter2"), masker.end(), masker.end()) == ("", "hunter2", "")
