"""From records to all_batches: what is learnt, in which order, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from powerjax import distill, models
from powerjax.distill import batches, step
from powerjax.models import text
from powerjax.parallel import mesh

PROMPT, TEXT = "2+2=\nA:", " \\boxed{4}"


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny", dtype="float32")


def _write(path, *rows, end="\n"):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + end)
    return str(path)


def test_the_tokens_of_a_record_are_learnt_as_they_are(tiny):
    tokens = [*tiny.encode(TEXT), 0]
    row = {"id": "a", "prompt": PROMPT, "completion": TEXT, "tokens": tokens}
    corpus = distill.load(tiny, [row, {**row, "tokens": tokens[:-1], "finish_reason": "length"}])
    assert corpus.examples[0].completion == tokens[:-1]
    assert corpus.examples[1] == distill.Example("a", tiny.encode(PROMPT), tokens)
    assert corpus.num_without_eos == 1
    ids = {"prompt": tiny.encode(PROMPT), "tokens": tokens, "completion": None}
    assert distill.load(tiny, [ids]).examples[0].prompt == tiny.encode(PROMPT)


def test_a_text_gets_eos_once_unless_it_was_cut(tiny):
    def learnt(lm=tiny, **row):
        return distill.load(lm, [{"prompt": PROMPT, "completion": TEXT, **row}]).examples[0]

    ids = tiny.encode(TEXT)
    assert learnt().completion == [*ids, 0]
    assert learnt(finish_reason="eos").completion == [*ids, 0]
    assert learnt(finish_reason="length").completion == ids
    assert learnt(completion=TEXT + tiny.tokenizer.eos_token).completion == [*ids, 0]
    assert learnt(completion=ids).completion == learnt(completion=[*ids, 0]).completion
    chat = dataclasses.replace(tiny, stop_ids=(5, 0))  # the tokenizer's own comes first
    assert learnt(chat).completion == [*ids, 0]
    assert learnt(dataclasses.replace(tiny, stop_ids=(5, 7))).completion == [*ids, 5]


def _with_tokenizer(lm, folder):
    config = dataclasses.replace(lm.config, vocab_size=200_000)
    tokenizer = text.load_tokenizer(folder)
    return dataclasses.replace(lm, config=config, tokenizer=tokenizer, stop_ids=())


def _learnt(lm, prompt, completion):
    row = {"prompt": prompt, "completion": completion}
    return distill.load(lm, [row]).examples[0]


def test_a_text_is_learnt_as_it_follows_its_prompt_without_phis_extra_space(tiny_qwen, data_dir):
    phi = _with_tokenizer(tiny_qwen, data_dir / "tokenizers" / "phi-3-mini")
    prompt, completion = "def f(a, b):\n", "    return a + b"
    example = _learnt(phi, prompt, completion)
    assert example.prompt == phi.encode(prompt)
    assert example.prompt + example.completion == phi.encode(prompt + completion)
    assert phi.encode(completion, special=False) != example.completion  # it has five spaces
    chat = "<|user|>\nhi<|end|>\n<|assistant|>\n"
    assert _learnt(phi, chat, "Hello").completion == phi.encode("Hello", special=False)
    merged = _learnt(phi, "un", "der")  # together they are one token, without the prompt's
    assert merged.completion == phi.encode("der", special=False)
    of_ids = _learnt(phi, phi.encode(prompt), completion)
    assert of_ids.completion == phi.encode(completion, special=False)


def test_a_text_follows_a_rendered_prompt_without_phis_extra_space(tiny_qwen, data_dir):
    from tokenizers.processors import TemplateProcessing

    phi = _with_tokenizer(tiny_qwen, data_dir / "tokenizers" / "phi-3-mini")
    with_bos = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    phi.tokenizer.backend_tokenizer.post_processor = with_bos
    prompt, completion = "def f(a, b):\n", "    return a + b"
    for style, special in (("raw", True), ("chat", False)):
        row = {"prompt": prompt, "completion": completion, "prompt_style": style}
        (example,) = distill.load(phi, [row]).examples
        both = phi.encode(prompt + completion, special=special)
        assert example.prompt + example.completion == both and (both[0] == 1) == special


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("def f(a, b):\n", "    return a + b"), (PROMPT, TEXT), ("un", "der"), ("1+1=", "2")],
)
def test_qwen_learns_a_text_as_if_it_stood_alone(tiny_qwen, data_dir, prompt, completion):
    qwen = _with_tokenizer(tiny_qwen, data_dir / "tokenizers" / "Qwen2.5-0.5B")
    example = _learnt(qwen, prompt, completion)
    assert example.completion == qwen.encode(completion, special=False)
    assert qwen.decode(example.completion) == completion


def test_long_examples_are_cut_and_counted_and_prompts_that_fill_the_window_left_out(tiny_qwen):
    sizes = [(3, 4), (3, 9), (8, 1), (7, 2), (9, 9)]
    rows = [{"prompt": [1] * p, "tokens": [2] * (c - 1) + [0]} for p, c in sizes]
    corpus = distill.load(tiny_qwen, rows, max_length=8)
    assert [len(example) for example in corpus.examples] == [7, 8, 8]
    assert corpus.examples[1].completion == [2] * 5 and corpus.examples[2].completion == [2]
    assert (corpus.num_truncated, corpus.num_dropped, corpus.num_without_eos) == (2, 2, 2)
    with pytest.raises(ValueError, match=r"longer than --max_length=6; the longest has 18 tokens"):
        distill.load(tiny_qwen, rows, max_length=6)


def test_the_corpus_is_the_same_whatever_the_order_of_the_records(tiny_qwen):
    rows = [{"id": str(i), "prompt": [1 + i % 2], "tokens": [9 - i, 0]} for i in range(6)]
    first, turned = distill.load(tiny_qwen, rows), distill.load(tiny_qwen, rows[::-1])
    assert first.examples == turned.examples and first.fingerprint == turned.fingerprint


def test_the_fingerprint_is_of_tokens_and_their_bounds(tiny_qwen):
    rows = [{"prompt": [1, 2], "tokens": [3, 0]}, {"prompt": [1], "tokens": [2, 3, 0]}]
    first = distill.load(tiny_qwen, rows).fingerprint
    assert first == distill.load(tiny_qwen, [{**row, "id": "x"} for row in rows]).fingerprint
    for other in (rows[:1], [rows[1], rows[1]]):
        assert distill.load(tiny_qwen, other).fingerprint != first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": TEXT}, "line 2: no prompt, only completion"),
        ({"prompt": PROMPT}, "line 2: no completion, only prompt"),
        ({"prompt": PROMPT, "completion": None}, "line 2: no completion, only prompt"),
        ({"prompt": PROMPT, "completion": ""}, "line 2: completion is empty"),
        ({"prompt": PROMPT, "tokens": []}, "line 2: tokens is empty"),
        ({"prompt": "", "completion": TEXT}, "line 2: prompt is empty"),
        ({"prompt": 3, "completion": TEXT}, "line 2: prompt is 3: give text, a list of token ids"),
        (
            {"prompt": PROMPT, "completion": [1, "a"]},
            "line 2: completion has 'a' where a token id is due",
        ),
        (
            {"prompt": PROMPT, "tokens": [1, 400]},
            "line 2: tokens has token id 400, outside the vocabulary",
        ),
        ({"prompt": PROMPT, "tokens": [1, 10**30]}, "line 2: tokens has token id 1000000"),
        ({"prompt": "\ud800", "completion": TEXT}, "line 2: prompt has half a surrogate pair"),
        ({"prompt": PROMPT, "tokens": [9, 9], "completion": TEXT}, "line 2: the tokens are not"),
        ({"prompt": PROMPT, "completion": 5}, "line 2: completion is 5: give text or a list"),
        ({"prompt": PROMPT, "tokens": "ab"}, "line 2: tokens is text: give a list of token ids"),
        ({"prompt": PROMPT, "tokens": [1.0]}, "line 2: tokens has 1.0 where a token id is due"),
        ({"prompt": PROMPT, "tokens": [1, -1]}, "line 2: tokens has token id -1, outside the"),
        ({"prompt": PROMPT, "completion": TEXT, "finish_reason": 3}, "line 2: finish_reason must"),
        ({"prompt": [{"role": "user"}], "completion": TEXT}, "line 2: prompt, message 0 has no co"),
        ("[" * 100_000, "line 2: not valid JSON (it is nested too deep)"),
        ("[1]", "line 2: expected a JSON object, found list"),
        ("{'prompt': 1}", "line 2: not valid JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tiny, tmp_path, row, message):
    good = {"prompt": PROMPT, "completion": TEXT}
    path = _write(tmp_path / "bad.jsonl", good, row, good)
    with pytest.raises(ValueError) as error:
        distill.load(tiny, path)
    assert str(error.value).startswith(f"{path}, {message}") and "\n" not in str(error.value)


def test_ids_of_numpy_are_learnt_as_ids(tiny_qwen):
    plain = distill.load(tiny_qwen, [{"prompt": [1, 2], "tokens": [3, 0]}])
    for kind in (list, np.array):
        row = {"prompt": kind([np.int64(1), np.int64(2)]), "tokens": kind([np.int32(3), 0])}
        corpus = distill.load(tiny_qwen, [row], max_length=np.int64(1024))
        assert corpus.examples == plain.examples and corpus.fingerprint == plain.fingerprint
        assert type(corpus.max_length) is int


@pytest.mark.parametrize("source", [None, 5, b"x", {"prompt": "a", "completion": "b"}])
def test_what_is_no_source_of_records_is_named(tiny_qwen, source):
    with pytest.raises(ValueError, match="give a file, a folder, a dataset id, or a list of dicts"):
        distill.load(tiny_qwen, source)


def test_texts_for_a_model_without_tokenizer_are_refused(tiny_qwen):
    with pytest.raises(
        ValueError, match="row 1: prompt is text, and tiny_qwen has no tokenizer files"
    ):
        distill.load(tiny_qwen, [{"prompt": PROMPT, "completion": TEXT}])


def test_a_torn_last_line_is_left_out_and_a_whole_one_without_newline_kept(tiny, tmp_path, caplog):
    row = {"prompt": PROMPT, "completion": TEXT}
    assert len(distill.load(tiny, _write(tmp_path / "a.jsonl", row, row, end=""))) == 2
    assert not caplog.records
    assert len(distill.load(tiny, _write(tmp_path / "b.jsonl", row, '{"prompt": "2', end=""))) == 1
    assert "the last line is cut short" in caplog.text
    with pytest.raises(ValueError, match="line 1: not valid JSON"):  # torn, but not the last
        distill.load(tiny, _write(tmp_path / "c.jsonl", '{"prompt": "2', row, '{"', end=""))
    with pytest.raises(ValueError, match=r"d\.jsonl holds no examples"):
        distill.load(tiny, _write(tmp_path / "d.jsonl", ""))
    with pytest.raises(FileNotFoundError, match=r"e\.jsonl: no such file"):
        distill.load(tiny, str(tmp_path / "e.jsonl"))
    _write(tmp_path / "records.jsonl", row)
    with pytest.raises(ValueError, match=r"is the folder of a run: give \S+/records\.jsonl"):
        distill.load(tiny, tmp_path)
    with pytest.raises(ValueError, match="name is empty"):
        distill.load(tiny, "")


def test_more_than_the_models_context_is_refused(tiny_qwen):
    rows = [{"prompt": [1] * 300, "tokens": [2] * 300}]
    with pytest.raises(ValueError, match=r"600 tokens.*--max_length of at most 512"):
        distill.load(tiny_qwen, rows, max_length=1024)


def test_datasets_are_read_as_files_are(tiny, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": PROMPT, "completion": TEXT}, {"prompt": "1+1=", "completion": " 2"}]
    expected = distill.load(tiny, rows).fingerprint
    dataset = datasets.Dataset.from_list(rows)
    dataset.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "split"))
    for source in (dataset, str(tmp_path / "one"), tmp_path / "split"):
        assert distill.load(tiny, source).fingerprint == expected
    with pytest.raises(ValueError, match=r"not a folder of datasets\.save_to_disk"):
        distill.load(tiny, str(tmp_path))


def _corpus(lengths, max_length=1024):
    examples = [distill.Example(str(i), [1], [i + 2] * (n - 1)) for i, n in enumerate(lengths)]
    return distill.Corpus(examples, max_length)


def test_an_epoch_has_every_example_once_in_an_order_of_seed_and_epoch():
    corpus = _corpus(range(2, 25))
    orders = {}
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        all_batches = batches.epoch_batches(corpus, batch_size=4, seed=seed, epoch=epoch)
        assert [len(batch) for batch in all_batches] == [4, 4, 4, 4, 4, 3]
        assert len(all_batches) == batches.num_batches(corpus, 4)
        order = np.concatenate(all_batches).tolist()
        assert sorted(order) == list(range(23)) and order != sorted(order)
        orders[seed, epoch] = order
    assert len({tuple(order) for order in orders.values()}) == 3
    again = batches.epoch_batches(corpus, batch_size=4, seed=0, epoch=1)
    assert np.concatenate(again).tolist() == orders[0, 1]


def test_batches_mix_lengths():
    """Else a token among short completions would weigh more than one among long ones."""
    corpus = _corpus([4] * 200 + [40] * 200)
    all_batches = batches.epoch_batches(corpus, batch_size=8, seed=0, epoch=0)
    long = np.array([sum(batch >= 200) for batch in all_batches])
    assert abs(long.var() - 2.0) < 0.8  # 8 draws of 1/2 have 2; sorted rows would have 16


def test_a_batch_is_padded_to_its_own_bucket_and_masks_all_but_completions():
    corpus = _corpus([5, 17, 9], max_length=100)
    assert [batches.bucket(n, 100) for n in (1, 16, 17, 64, 65, 100)] == [16, 16, 32, 64, 100, 100]
    batch = batches.make_batch(corpus, np.array([2, 0]), batch_size=2, data_size=1)
    assert batch.tokens.shape == (1, 2, 16) and batch.tokens.dtype == np.int32
    assert batch.tokens[0, 0].tolist() == [1] + [4] * 8 + [0] * 7
    assert batch.completion[0, 1].tolist() == [False] + [True] * 4 + [False] * 11
    assert batch.example.tolist() == [[2, 0]]
    short = batches.make_batch(
        corpus, np.array([1]), batch_size=4, data_size=1, tokens_per_device=64
    )
    assert short.tokens.shape == (2, 2, 32)
    assert short.example.tolist() == [[1, -1], [-1, -1]]
    assert short.completion.sum() == 16 and (short.tokens[short.example < 0] == 1).all()


@pytest.mark.parametrize(
    ("tokens", "batch_size", "data_size", "expected"),
    [
        (1024, 8, 1, (8, 1)),  # the paper's batch of 1, accumulated 8 times
        (512, 8, 1, (4, 2)),
        (16, 8, 1, (1, 8)),
        (16, 8, 4, (1, 8)),
        (1024, 8, 4, (2, 4)),
        (4096, 8, 8, (1, 8)),
        (16, 12, 2, (3, 4)),  # six rows per device, divided by powers of two
        (16, 7, 1, (7, 1)),
    ],
)
def test_the_global_batch_is_the_same_on_every_mesh(tokens, batch_size, data_size, expected):
    grid = batches.grid(tokens, batch_size=batch_size, data_size=data_size, tokens_per_device=1024)
    assert grid == expected and grid[0] * grid[1] == batch_size


@pytest.mark.parametrize(("backend", "expected"), [("cpu", (2, 4)), ("tpu", (1, 8))])
def test_a_cpu_takes_fewer_rows_at_a_time(backend, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert batches.grid(128, batch_size=8, data_size=1) == expected


def test_a_mesh_that_does_not_divide_the_batch_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="batch of 8 examples does not divide over a data axis of"):
        batches.grid(16, batch_size=8, data_size=3)


def test_a_sharded_batch_is_the_same_batch():
    corpus = _corpus([5, 17, 9], max_length=100)
    how = {"batch_size": 4, "data_size": 1, "tokens_per_device": 64}
    plain = batches.make_batch(corpus, np.array([2, 0, 1]), **how)
    devices = mesh.make_mesh(devices=jax.devices()[:1])
    placed = step.batch_sharding(devices)
    sharded = batches.make_batch(corpus, np.array([2, 0, 1]), **how, sharding=placed)
    for a, b, sharding in zip(plain, sharded, placed, strict=True):
        assert isinstance(b, jax.Array) and b.sharding == sharding
        np.testing.assert_array_equal(a, b)
