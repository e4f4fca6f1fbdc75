"""Completions side by side: every token's text and colour, as a page and as a picture."""

import html
import re

import pytest

from powerjax.models import text
from powerjax.report import qualitative

MARKED = "a <b> & 中文 👩‍🔬\n\tx $y_1$"


@pytest.fixture(scope="module")
def decode(data_dir):
    tokenizer = text.load_tokenizer(data_dir / "tokenizers" / "Qwen2.5-0.5B")

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True)

    decode.ids = tokenizer(MARKED)["input_ids"]
    return decode


def _record(decode, **fields):
    ids = [*decode.ids, 151643]
    log_probs = [-0.25 * i for i in range(len(ids))]
    return {
        "id": "t/p/m/standard/0/0",
        "completion": MARKED,
        "tokens": ids,
        "log_probs": log_probs,
        "self_reward": sum(log_probs) / len(ids),
        "num_tokens": len(ids),
        "finish_reason": "eos",
        "correct": True,
        **fields,
    }


def test_pieces_join_to_the_text(decode):
    pieces = qualitative.pieces(decode.ids, decode)
    assert "".join(pieces) == MARKED and len(pieces) == len(decode.ids)
    assert "" in pieces and not any("\ufffd" in piece for piece in pieces)


def test_the_page_holds_each_token_with_its_log_probability(decode):
    record = _record(decode)
    columns = {"Standard": [record, record], "Power": [{**record, "correct": False}]}
    page = qualitative.page(columns, decode, prompt="1 < 2 {x}?", answer="yes")
    spans = re.findall(
        r'<span style="background:(#\w{6})" title="log p (\S+), [^"]*">([^<]*)<', page
    )
    assert len(spans) == 3 * len(record["tokens"])
    first = spans[: len(record["tokens"])]
    assert html.unescape("".join(piece for *_, piece in first)) == MARKED + "<eos>"
    assert [float(value) for _, value, _ in first] == record["log_probs"]
    assert "1 &lt; 2 {x}?" in page and "right</b>" in page and "wrong</b>" in page
    assert "http" not in page and "<script" not in page


def test_a_less_likely_token_is_darker():
    shades = [int(qualitative.colour(-x)[-2:], 16) for x in (0, 0.5, 1, 3, 6)]
    assert shades == sorted(shades, reverse=True) and len(set(shades)) == 5
    assert qualitative.colour(0.0) == "#ffffff" and qualitative.colour(-9) == "#d55e00"


@pytest.mark.filterwarnings("ignore:Glyph")
def test_the_picture_draws_every_character_once(decode, tmp_path):
    record = _record(decode)
    columns = {"Standard": [record], "Power": [record, record]}
    figure = qualitative.figure(columns, decode, prompt="p" * 250, answer="1", width=7)
    figure.savefig(tmp_path / "a.png")
    written = [t.get_text() for t in figure.axes[0].texts]
    assert sum(map(len, written)) >= 3 * len(MARKED.replace("\n", "") + "<eos>")
    long = _record(decode, tokens=decode.ids * 300 + [151643])
    long["log_probs"] = [-0.1] * len(long["tokens"])
    cut = qualitative.figure({"Standard": [long]}, decode, prompt="", answer=None, max_lines=5)
    assert "..." in [t.get_text() for t in cut.axes[0].texts]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"completion": None, "prompt_sha256": "0"}, "secret"),
        ({"log_probs": None}, "no log_probs"),
    ],
)
def test_what_cannot_be_shown_is_refused(decode, fields, message):
    with pytest.raises(ValueError, match=message):
        qualitative.tokens(_record(decode, **fields), decode)
