"""Prompts and completions as token ids: what is accepted, and what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from powerjax import distill, models, sample
from powerjax.models import prompts

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
HELLO = [{"role": "user", "content": "1+1="}]
SMALL = dict(max_new_tokens=4, num_slots=4, progress=False)


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny", dtype="float32")


@pytest.fixture(scope="module")
def chat(tiny):
    """The embedded model with a chat template."""
    lm = models.load("tiny", dtype="float32")
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@pytest.fixture(scope="module")
def narrow(tiny):
    """A model with fewer embeddings than its tokenizer has tokens."""
    config = dataclasses.replace(tiny.config, vocab_size=40)
    return dataclasses.replace(tiny, config=config)


@pytest.mark.parametrize(
    "value",
    [
        [5, 6],
        (5, 6),
        range(5, 7),
        [np.int64(5), np.int32(6)],
        np.array([5, 6], np.uint8),
        jnp.array([5, 6]),
        [jnp.int32(5), np.array(6)],
        (token for token in (5, 6)),
    ],
)
def test_token_ids_of_every_kind_are_ints(tiny_qwen, value):
    tokens = prompts.encode(tiny_qwen, value)
    assert tokens == [5, 6] and all(type(token) is int for token in tokens)


def test_several_prompts_may_come_in_arrays_and_generators(tiny):
    rows = [tiny.encode("1+1="), [3, 4]]
    assert prompts.encode_all(tiny, (p for p in ("1+1=", [3, 4]))) == rows
    assert prompts.encode_all(tiny, np.array([[3, 4], [5, 6]])) == [[3, 4], [5, 6]]
    assert prompts.encode_all(tiny, np.array(["1+1=", "2"])) == [rows[0], tiny.encode("2")]
    assert prompts.encode_all(tiny, []) == []


def test_chat_messages_go_through_the_template_everywhere(chat):
    expected = chat.encode("[user]1+1=[assistant]", special=False)
    assert prompts.encode_all(chat, HELLO) == prompts.encode_all(chat, [HELLO]) == [expected]
    twice = prompts.encode_all(chat, [HELLO, [{"role": "system", "content": "x"}, *HELLO]])
    assert twice == [expected, chat.encode("[system]x[user]1+1=[assistant]", special=False)]
    by_chat, by_ids = (sample.standard(chat, p, **SMALL) for p in ([HELLO], [expected]))
    assert by_chat[0].tokens == by_ids[0].tokens
    assert by_chat.to_records()[0]["prompt_style"] == "chat"
    mixed = sample.standard(chat, [HELLO, expected], **SMALL).to_records()
    assert [record["prompt_style"] for record in mixed] == ["chat", "raw"]
    np.testing.assert_array_equal(*chat.score([HELLO, expected], ["2", "2"]))
    (example,) = distill.load(chat, [{"prompt": HELLO, "completion": "2"}]).examples
    assert example.prompt == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "prompts is None: give a list of prompts"),
        ("text", "prompts is one string: give a list of prompts"),
        (b"abc", "prompts is of type bytes"),
        ({"a", "b"}, "prompts is of type set"),
        ({"prompt": "a"}, "prompts is of type dict"),
        (7, "prompts is 7"),
        (np.array(7), "prompts is an array without axes"),
        ([1, 2, 3], "prompts is one list of token ids: wrap it in a list"),
        (np.array([1, 2]), "prompts is one list of token ids: wrap it in a list"),
        ([None], "prompt 0 is None"),
        ([5.9], "prompt 0 is 5.9"),
        ([True], "prompt 0 is True"),
        ([[1], [5.9]], "prompt 1 has 5.9 where a token id is due"),
        ([[True]], "prompt 0 has True where a token id is due"),
        (np.array([[0.5]]), "prompt 0 has 0.5 where a token id is due"),
        ([[1, None]], "prompt 0 has None where a token id is due"),
        ([["a", "b"]], "prompt 0 has 'a' where a token id is due"),
        ([[[1, 2]]], "prompt 0 has [1, 2] where a token id is due: it is nested too deep"),
        ([b"abc"], "prompt 0 is of type bytes"),
        ([[10**5000]], "outside the vocabulary"),
        ([[-1]], "prompt 0 has token id -1, outside the vocabulary"),
        (np.array([[2**63]], np.uint64), "token id 9223372036854775808"),
        (["ok", "a\ud83d"], "prompt 1 has half a surrogate pair at character 2"),
        ([{"prompt": "a"}], "prompt 0, message 0 has no role"),
        ([[{"role": "user", "content": 5}]], "prompt 0, message 0 has no content"),
        (
            [[{"role": "user", "content": [{"type": "image"}]}]],
            "prompt 0, message 0 has a content of parts, such as images: only text is read",
        ),
        ([[*HELLO, "text"]], "prompt 0, message 1 is of type str"),
        ([[*HELLO, {"role": "assistant", "content": "2"}]], "there is nothing to answer"),
    ],
)
def test_what_is_no_prompt_is_one_line_in_sampling_and_scoring(chat, values, words):
    for call in (
        lambda: sample.standard(chat, values, **SMALL),
        lambda: chat.score(values, ["2"]),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert words in str(error.value) and "\n" not in str(error.value)


def test_what_a_tokenizer_returns_is_refused_by_name(tiny):
    encoding = tiny.tokenizer("1+1=")
    for value in (tiny.tokenizer(["1+1=", "2"]), encoding, [encoding], [encoding, encoding]):
        with pytest.raises(ValueError, match=r"give its \['input_ids'\] alone"):
            sample.standard(tiny, value, **SMALL)
    assert prompts.encode_all(tiny, tiny.tokenizer(["1+1="])["input_ids"])


def test_a_completion_is_no_string_alone_and_no_conversation(chat):
    with pytest.raises(ValueError, match="completions is one string"):
        chat.score(["a"], "b")
    with pytest.raises(ValueError, match="prompts is one string"):
        chat.score("a", "b")
    with pytest.raises(ValueError, match="completion 0 is a list of chat messages"):
        chat.score(["a"], [HELLO])


def test_a_model_without_a_template_refuses_messages(tiny):
    rows = [{"prompt": "1", "completion": "1"}, {"prompt": HELLO, "completion": "2"}]
    for where, call in {
        "prompt 1": lambda: sample.standard(tiny, ["1+1=", HELLO], **SMALL),
        "prompt 0": lambda: tiny.score([HELLO], ["2"]),
        "records, row 2: prompt": lambda: distill.load(tiny, rows),
    }.items():
        with pytest.raises(ValueError, match=f"^{where}: .* no chat template: give its text"):
            call()


def test_masked_ids_are_no_ids(tiny):
    with pytest.raises(ValueError, match="prompt 0 has None where a token id is due"):
        sample.standard(tiny, [np.ma.array([1, 2], mask=[False, True])], **SMALL)


def test_scoring_names_what_is_too_long(tiny):
    for too_long in (["1", "1" * 5000], ["1", [1] * 4096]):
        with pytest.raises(ValueError, match=r"^prompt 1 and its completion: .* context of 4096"):
            tiny.score(["1", "1"], too_long)


def test_text_with_tokens_past_the_embeddings_is_refused_everywhere(narrow):
    """JAX would clamp a lookup past the end, and the student would learn the wrong token."""
    calls = {
        "prompt 0": lambda: sample.standard(narrow, ["zz"], **SMALL),
        "prompt 1": lambda: narrow.score(["1", "zz"], ["1", "1"]),
        "completion 0": lambda: narrow.score(["1"], ["zz"]),
        "row 1: prompt": lambda: distill.load(narrow, [{"prompt": "z", "completion": "1"}]),
        "row 1: completion": lambda: distill.load(narrow, [{"prompt": "1", "completion": "z"}]),
    }
    for where, call in calls.items():
        with pytest.raises(ValueError) as error:
            call()
        line = str(error.value)
        assert f"{where} has token id" in line and "vocabulary of 40" in line and "\n" not in line


@pytest.mark.parametrize("tokens", [[[5.9]], [[True]], [[10**30]], [[2**32 + 5]], [[1], [1, 2]]])
def test_logits_take_whole_numbers_alone(tiny_qwen, tokens):
    with pytest.raises(ValueError):
        tiny_qwen.logits(tokens)
    with pytest.raises(ValueError, match="lengths must be 1 whole numbers from 0 to 2"):
        tiny_qwen.logits([[1, 2]], [3])


def test_ids_of_another_tokenizer_are_not_decoded(tiny):
    assert tiny.decode(np.array(tiny.encode("1+1="))) == "1+1="
    for bad in ([10**30], [-1], "1+1="):
        with pytest.raises(ValueError, match="the sequence"):
            tiny.decode(bad)
