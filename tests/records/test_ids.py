"""The ids of records, with the hash of the law and without it."""

import re

import pytest

from powerjax import records


def test_an_id_has_the_hash_of_the_settings_and_can_do_without():
    name = dict(task="t", problem_id="a/b", model="org/m", sampler="power_n_30", seed=1)
    name["sample_index"] = 2
    whole = {"top_k": 20, "alpha": 4.0}
    record = {**whole, "id": records.record_id(**name, law=whole)}
    other = records.record_id(**name, law={"top_k": 40, "alpha": 4.0})
    assert re.fullmatch(r"t/a/b/org/m/power_n_30-[0-9a-f]{8}/1/2", record["id"])
    assert other != record["id"]
    assert records.chain_name(record) == records.record_id(**name) == "t/a/b/org/m/power_n_30/1/2"
    assert records.sampler_label(record) == "power_n_30"


@pytest.mark.parametrize(
    "name, label",
    [
        ("t/p/m/power/0/1", "power"),
        ("t/p/m/run-20240101/0/1", "run-20240101"),
        ("t/p/m/best-of-deadbeef/0/1", "best-of-deadbeef"),
        ("mine", "power"),
    ],
)
def test_an_id_without_the_hash_is_read_as_it_is(name, label):
    record = {"id": name, "sampler": "power", "alpha": 4.0}
    assert records.chain_name(record) == name and records.sampler_label(record) == label
