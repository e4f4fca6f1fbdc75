"""How a model is prompted with a task's problems, and what is noted of it."""

import dataclasses
import json
import re

import pytest

from powerjax import distill, records, runs
from powerjax.models import text
from powerjax.runs import Chat, Row, prompts, rescoring
from powerjax.tasks import Problem, registry
from powerjax.tasks.base import prompt_hash
from tests import tokenizer_folder

PLAIN = {"max_new_tokens": 16, "seed": 0, "num_samples": 2}
TASK = registry.get("arithmetic")


class _Chatty:
    chat_template = "x"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return f"<{messages[0]['content']}>"


@pytest.mark.parametrize(
    "name, chat, template, prompt",
    [
        ("Phi-3.5-mini-instruct", True, "auto", "<p>"),
        ("Phi-3.5-mini-instruct", False, "auto", "p"),
        ("Qwen2.5-7B", True, "auto", "p"),
        ("Qwen2.5-7B", True, "on", "<p>"),
        ("Phi-3.5-mini-instruct", True, "off", "p"),
    ],
)
def test_problems_are_prompted_as_in_the_paper(lm, name, chat, template, prompt):
    chatty = dataclasses.replace(lm, tokenizer=_Chatty(), name=name)
    task = dataclasses.replace(TASK, chat=chat)
    problems = [Problem("a", "p", None), Problem("b", [1, 2], None)]
    problems = runs.prompted(chatty, task, problems, template)
    assert [problem.prompt for problem in problems] == [prompt, [1, 2]]
    assert [problem.style for problem in problems] == ["chat" if prompt == "<p>" else "raw", "raw"]


@pytest.mark.parametrize(
    ("template", "num_bos"),
    [("{{ bos_token }}Q:{{ messages[0].content }} A:", 1), ("Q:{{ messages[0].content }} A:", 0)],
)
def test_sampling_scoring_and_the_student_read_a_rendered_prompt_alike(
    template, num_bos, tiny_qwen, tmp_path
):
    """The tokenizer adds BOS to a raw prompt; a rendered one has its own or, as meant, none."""
    tokenizer = text.load_tokenizer(tokenizer_folder.write(tmp_path, chat_template=template))
    lm = dataclasses.replace(tiny_qwen, tokenizer=tokenizer, name="tiny-it", stop_ids=(1,))
    problems = runs.prompted(lm, TASK, [Problem("a", "2+2=", "4")])
    assert [type(problem.prompt) for problem in problems] == [text.Rendered]
    row = Row("Base", "Standard", "standard", PLAIN)
    runs.measure(lm, problems, row, tmp_path, task=TASK, progress=False)
    ids = [0] * num_bos + lm.encode("Q:2+2= A:", special=False)
    drawn = records.read(row.path(tmp_path))
    for record in drawn:
        assert record["prompt_style"] == "chat" and record["prompt"].endswith("Q:2+2= A:")
        (scores,) = lm.score([ids], [record["tokens"]])
        assert record["log_probs"] == pytest.approx(scores.tolist(), abs=1e-4)
    corpus = distill.load(lm, row.path(tmp_path))
    assert [example.prompt for example in corpus.examples] == [ids, ids]
    texts = [{key: r[key] for key in ("prompt", "prompt_style", "completion")} for r in drawn]
    assert [example.prompt for example in distill.load(lm, texts).examples] == [ids, ids]
    scored = rescoring.rescore(lm, drawn, problems, tmp_path / "scores.jsonl", progress=False)
    for record in scored:
        assert record["evaluated_self_reward"] == pytest.approx(record["self_reward"], abs=1e-4)


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}()</think>{% endif %}"
)
ASKED = [{"role": "user", "content": "2+2="}]
TEACHER = {"role": "system", "content": "You add."}


@pytest.fixture
def thinker(tiny_qwen, tmp_path):
    """A model whose template has a system message and the variable enable_thinking."""
    folder = tokenizer_folder.write(tmp_path / "tokenizer", chat_template=TEMPLATE)
    tokenizer = text.load_tokenizer(folder)
    return dataclasses.replace(tiny_qwen, tokenizer=tokenizer, name="tiny-it", stop_ids=(1,))


@pytest.mark.parametrize(
    ("chat", "prompt", "style"),
    [
        (Chat(), "<user>2+2=<assistant>", "chat"),
        (Chat(enable_thinking=True), "<user>2+2=<assistant>", "thinking on, chat"),
        (
            Chat("on", enable_thinking=False),
            "<user>2+2=<assistant>()</think>",
            "thinking off, chat",
        ),
        (
            Chat(system="You add."),
            "<system>You add.<user>2+2=<assistant>",
            "system message 860001b9, chat",
        ),
    ],
)
def test_the_system_message_and_thinking_are_in_the_prompt_and_in_its_style(
    thinker, chat, prompt, style
):
    text_and_conversation = [Problem("a", "2+2=", "4"), Problem("b", ASKED, "4")]
    for problem in runs.prompted(thinker, TASK, text_and_conversation, chat):
        assert (problem.prompt, problem.style) == (prompt, style)
        assert problem.messages == ([TEACHER] if chat.system else []) + ASKED


def test_a_conversation_keeps_its_own_system_message(thinker):
    own = [{"role": "system", "content": "Be brief."}, *ASKED]
    (problem,) = runs.prompted(thinker, TASK, [Problem("a", own, None)], Chat(system="You add."))
    assert problem.messages == own and problem.prompt.startswith("<system>Be brief.<user>")


@pytest.mark.parametrize(
    ("prompt", "chat", "template", "message"),
    [
        ("p", Chat("off", system="s"), TEMPLATE, "prompts are raw (--chat_template=off): add"),
        (ASKED, "off", TEMPLATE, "problem a is a conversation, and --chat_template=off"),
        ("p", Chat(system="s"), "<{{ messages[-1].content }}>", "leaves out the system message"),
        ("p", Chat(enable_thinking=False), "{{ messages[0].content }}", "no variable 'enable_"),
        (ASKED, "auto", None, "has no chat template"),
    ],
)
def test_settings_that_a_template_does_not_have_are_refused(
    thinker, prompt, chat, template, message
):
    thinker.tokenizer.chat_template = template
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.prompted(thinker, TASK, [Problem("a", prompt, None)], chat)


def test_records_keep_the_conversation_and_the_student_learns_from_conversations(thinker, tmp_path):
    chat = Chat(enable_thinking=False)
    problems = runs.prompted(thinker, TASK, [Problem("a", ASKED, "4")], chat)
    row = Row("Base", "Standard", "standard", PLAIN)
    runs.measure(thinker, problems, row, tmp_path, task=TASK, progress=False)
    drawn = records.read(row.path(tmp_path))
    for record in drawn:
        assert record["messages"] == ASKED and record["prompt_style"] == "thinking off, chat"
        assert record["prompt"] == "<user>2+2=<assistant>()</think>"
    answered = [{"messages": [*ASKED, {"role": "assistant", "content": "4"}]}]
    corpus = distill.load(thinker, answered, template_arguments=chat.arguments)
    (example,) = corpus.examples
    assert example.prompt == thinker.encode(problems[0].prompt, special=False)
    assert example.completion == [*thinker.encode("4", special=False), 1]
    assert distill.load(thinker, row.path(tmp_path)).examples[0].prompt == example.prompt
    with pytest.raises(ValueError, match="do not end in an answer of the assistant"):
        distill.load(thinker, [{"messages": ASKED}])


def test_the_manifest_says_the_style_of_each_task_and_why(lm, tmp_path):
    chatty = dataclasses.replace(lm, tokenizer=_Chatty(), name="org/Phi-3.5-mini-instruct")
    tasks = [registry.get("math500"), registry.get("humaneval")]
    for name in ("auto", "off"):
        folder = records.open_run(tmp_path / name, {})
        runs.note_prompts(folder, chatty, tasks, name)
    noted = {
        name: json.loads((tmp_path / name / "manifest.json").read_text())["prompts"]
        for name in ("auto", "off")
    }
    assert noted["auto"]["math500"]["style"] == "chat"
    assert "'Phi-3.5-mini-instruct' says instruct" in noted["auto"]["math500"]["why"]
    assert noted["auto"]["humaneval"]["style"] == "raw"
    assert noted["off"]["math500"] == {"style": "raw", "why": "--chat_template=off"}


def test_a_prompt_is_recovered_by_its_hash_in_raw_text_or_in_the_chat_template():
    problems = [Problem("a", "p", None), Problem("b", [1, 2], None)]
    in_chat = dataclasses.replace(problems[0], prompt="<p>")
    hidden = [
        {"prompt": None, "prompt_sha256": prompt_hash(problem)} for problem in (*problems, in_chat)
    ]
    others = [
        {"prompt": "q", "prompt_sha256": prompt_hash(problems[0])},
        {"prompt": None},
        {"prompt_sha256": "0"},
    ]
    recovered = prompts.recover_prompts([*hidden, *others], problems)
    assert recovered == ["p", [1, 2], None, None, None, None]
    recovered = prompts.recover_prompts([*hidden, *others], problems, _Chatty())
    assert recovered == ["p", [1, 2], "<p>", None, None, None]
