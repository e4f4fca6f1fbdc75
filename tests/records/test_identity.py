"""Which settings make a law, and the hash that names it."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from powerjax.records import identity

LAW = {
    "sampler": "power",
    "alpha": 4.0,
    "temperature": 0.25,
    "num_mcmc_steps": 10,
    "block_size": 192,
    "stop": "eos",
    "kernel": "exact",
    "top_k": None,
    "max_new_tokens": 3072,
    "prompt_style": "raw",
    "dtype": "float32",
    "adapter": None,
    "adapter_merged": None,
    "adapter_hash": None,
    "weights": "0123456789abcdef",
    "proposal": None,
    "proposal_hash": None,
    "move": None,
    "proposal_temperature": None,
    "mixture": None,
    "vocab_size": None,
}
OTHER = {
    "sampler": "power_inf",
    "alpha": 2.0,
    "temperature": 0.5,
    "num_mcmc_steps": 30,
    "block_size": 64,
    "stop": "horizon",
    "kernel": "karan2026",
    "top_k": 20,
    "max_new_tokens": 512,
    "prompt_style": "chat",
    "dtype": "bfloat16",
    "adapter": "runs/student/adapter",
    "adapter_merged": True,
    "adapter_hash": "fedcba9876543210",
    "weights": "random-0",
    "proposal": "tiny+student",
    "proposal_hash": "89abcdef",
    "move": "restart",
    "proposal_temperature": 1.0,
    "mixture": [0.4, 0.3, 0.3],
    "vocab_size": 151665,
}


def test_the_hash_is_of_every_setting_of_the_law():
    assert LAW.keys() == OTHER.keys() == set(identity.LAW)
    hashes = {identity.law_hash(LAW | {name: value}) for name, value in OTHER.items()}
    assert len(hashes | {identity.law_hash(LAW)}) == len(LAW) + 1
    seeds = [LAW | {"seed": seed, "num_slots": seed} for seed in (0, 1)]
    assert {identity.law_hash(settings) for settings in seeds} == {identity.law_hash(LAW)}


def test_the_hash_is_the_same_on_any_machine_and_in_any_order():
    """A constant, so that another Python or a change of this project that moves it is seen."""
    assert identity.law_hash(LAW) == "c03d9bf4"
    assert identity.law_hash(dict(reversed(LAW.items()))) == identity.law_hash(LAW)
    assert identity.law_hash(json.loads(json.dumps(LAW))) == identity.law_hash(LAW)
    code = f"from powerjax.records import identity; print(identity.law_hash({LAW!r}))"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}
    )
    assert ran.stdout.strip() == identity.law_hash(LAW), ran.stderr


@pytest.mark.parametrize(
    "name, same",
    [
        ("alpha", [4, 4.0, np.float32(4), np.int64(4), np.array(4.0)]),
        ("temperature", [0.1, np.float32(0.1), np.float64(0.1), float(np.float32(0.1))]),
        ("temperature", [1 / 3, np.float32(1) / np.float32(3)]),
        ("top_k", [20, np.int64(20), np.int32(20)]),
        ("max_new_tokens", [512, np.uint16(512), 512.0]),
    ],
)
def test_numbers_that_are_equal_make_one_law(name, same):
    assert len({identity.law_hash(LAW | {name: value}) for value in same}) == 1
    assert not identity.differences(LAW | {name: same[0]}, LAW | {name: same[-1]})


def test_a_field_that_is_none_leaves_the_hash_as_it_was_without_it():
    older = {name: value for name, value in LAW.items() if name != "top_k"}
    assert identity.law_hash(older) == identity.law_hash(LAW)
    assert identity.stated(older) != identity.stated(LAW)


def test_an_adapter_goes_by_its_tensors_wherever_its_folder_is():
    def student(path, tensors):
        return LAW | {"adapter": path, "adapter_hash": tensors}

    first = student("runs/a/student/adapter", "aa")
    assert identity.law_hash(first) == identity.law_hash(student("/mnt/b/student/adapter", "aa"))
    assert identity.law_hash(first) != identity.law_hash(student("runs/a/student/adapter", "bb"))
    assert identity.law_hash(first) != identity.law_hash(student("runs/a/other/adapter", "aa"))
    unhashed = [student(f"{folder}/student/adapter", None) for folder in ("a", "b")]
    assert len({identity.law_hash(settings) for settings in unhashed}) == 2
    assert not identity.differences(unhashed[0], first)
    assert [name for name, *_ in identity.differences(LAW, first)] == []


def test_labels_name_what_differs_and_only_that():
    def labels(*changes):
        return identity.labels([identity.stated(LAW | change) for change in changes])

    assert labels({}) == [""]
    assert labels({}, {"top_k": 20}) == ["no top_k", "top_k 20"]
    assert labels({"max_new_tokens": 64}, {"max_new_tokens": 512}) == ["64 tokens", "512 tokens"]
    assert labels({}, {"alpha": 2.5, "temperature": 0.4}) == [
        "alpha=4, tau=0.25",
        "alpha=2.5, tau=0.4",
    ]
    assert labels({}, {"prompt_style": "chat"}) == ["raw prompt", "chat template"]
    assert labels({}, {"prompt_style": "request"}) == ["raw prompt", "request prompt"]
    assert labels({}, {"dtype": "bfloat16", "weights": "f"}) == ["float32", "bfloat16"]
    assert labels({"weights": "e"}, {"weights": "f"}) == ["weights e", "weights f"]
    students = [
        {"adapter": f"runs/{name}/adapter", "adapter_hash": name * 8, "adapter_merged": False}
        for name in "ab"
    ]
    assert labels(*students) == ["adapter a", "adapter b"]
    merged = students[0] | {"adapter_merged": True}
    assert labels(students[0], merged) == ["adapter not merged", "adapter merged"]


def test_two_laws_have_two_labels_and_numbers_look_as_they_were_given():
    near = [{"alpha": alpha} for alpha in (4.0, 4.000001, 1 / 3)]
    names = identity.labels([identity.stated(LAW | change) for change in near])
    assert names == ["alpha=4", "alpha=4.000001", "alpha=0.33333334"]
    warm = [identity.stated(LAW | {"temperature": value}) for value in (0.3, 0.7)]
    assert identity.labels(warm) == ["tau=0.3", "tau=0.7"]
    assert identity.shown(warm[0]["temperature"]) == "0.3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert identity.shown(identity.stated({"alpha": 1e39})["alpha"]) == "inf"


def test_a_law_that_does_not_state_what_others_do_is_labelled_so():
    whole = identity.stated(LAW)
    older = {name: whole[name] for name in ("sampler", "alpha", "temperature")}
    assert identity.labels([whole, older]) == ["", "settings not recorded"]
    assert identity.labels([whole | {"top_k": 5}, whole, older]) == [
        "top_k 5",
        "no top_k",
        "settings not recorded",
    ]
    first, second = ({n: v for n, v in whole.items() if n != name} for name in ("top_k", "dtype"))
    assert identity.labels([first, second]) == ["top_k not recorded", "dtype not recorded"]


def test_a_record_that_names_no_proposal_model_has_none():
    """Records from before there were proposal models state nothing of them."""
    base = {"sampler": "power", "alpha": 4.0, "num_mcmc_steps": 30}
    moved = base | {"num_mcmc_steps": 1, "proposal": "tiny+student", "move": "restart"}
    assert identity.stated(base) == identity.stated(base | {"proposal": None, "move": None})
    assert identity.law_hash(base) == identity.law_hash(base | {"proposal": None})
    assert [name for name, *_ in identity.differences(base, moved)] == [
        *("num_mcmc_steps", "proposal", "move")
    ]
    assert identity.labels([identity.stated(base), identity.stated(moved)]) == [
        "N=30, no proposal",
        "N=1, proposal tiny+student, restart moves",
    ]


def test_a_row_without_a_proposal_model_is_not_one_whose_settings_are_unknown():
    plain = identity.stated(LAW)
    of_student = identity.stated(
        LAW | {"num_mcmc_steps": 1, "proposal": "tiny+s", "proposal_hash": "1", "move": "restart"}
    )
    number = f"N={LAW['num_mcmc_steps']}"
    assert identity.labels([plain, of_student]) == [
        f"{number}, no proposal",
        "N=1, proposal tiny+s, restart moves",
    ]
    warm, cold = (identity.stated(of_student | {"proposal_temperature": t}) for t in (1, 0.5))
    assert identity.labels([warm, cold]) == ["tau_q=1", "tau_q=0.5"]
