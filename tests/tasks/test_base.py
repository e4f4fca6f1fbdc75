"""How a model is asked: by what its own name says, and whether it has a chat template."""

import pytest

from powerjax.tasks import CHAT, RAW, code, registry
from powerjax.tasks.base import is_chat_model, own_name

CHAT_MODELS = (
    "microsoft/Phi-3.5-mini-instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "google/gemma-2-2b-it",
    "/data/Qwen1.5_7B_Chat/",
    "./runs/Llama.Instruct.v2",
    "gemma_2b_IT",
    "cache/models--Qwen--Qwen2.5-7B-Instruct/snapshots/0123abcd",
)
BASE_MODELS = (
    "tiny",
    "Qwen/Qwen2.5-Math-7B",
    "chatroom/base",
    "/models/instruct/Qwen2.5-7B",
    "student-iter1",
    "Italian-7B",
    "it-5b",
    "org/chatty-7b",
    "instructions-7b",
    "iterate",
    "runs/Phi-3.5-mini-instruct/merged",
    "cache/models--Qwen--Qwen2.5-7B/snapshots/chat",
    "",
)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_chat_model_is_asked_through_its_template_if_it_has_one(model):
    task = registry.get("math500")
    assert is_chat_model(model) and not is_chat_model(model, has_template=False)
    assert task.prompt_style(model) == CHAT
    style, why = task.prompt_choice(model, has_template=False)
    assert style == RAW and "no chat template" in why and own_name(model) in why
    assert registry.get("humaneval").prompt_choice(model)[0] == RAW
    assert code.wording(model) == code.REQUEST  # its name says that it follows requests


@pytest.mark.parametrize("model", BASE_MODELS)
def test_a_base_model_is_asked_in_raw_text_whatever_folder_it_is_in(model):
    style, why = registry.get("math500").prompt_choice(model, has_template=True)
    assert not is_chat_model(model) and style == RAW and repr(own_name(model)) in why
    assert code.wording(model) == code.STUB


def test_a_folder_given_as_here_goes_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "gemma-it").mkdir()
    monkeypatch.chdir(tmp_path / "gemma-it")
    assert own_name(".") == own_name("../gemma-it/") == "gemma-it" and is_chat_model(".")
    assert own_name("") == "" and not is_chat_model("")
