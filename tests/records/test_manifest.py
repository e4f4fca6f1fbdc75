"""A run folder takes up its own run, and is not mixed up with another."""

import json

import pytest

from powerjax import records


def test_a_run_is_taken_up_only_with_the_flags_it_was_made_with(tmp_path):
    settings = {"model": "tiny", "alpha": 4.0, "seed": 0, "limit": 10, "top_k": None}
    folder = records.open_run(tmp_path / "a" / "b", settings, free=("limit",))
    records.open_run(folder, {**settings, "limit": 20}, free=("limit",))
    with records.RecordFile(folder / "records.jsonl") as file:
        records.open_run(folder, {**settings, "alpha": 3.0})  # there is nothing to mix up yet
        records.open_run(folder, {**settings, "limit": 20})
        file.append({"id": "t/p0/m/power/0/0", "tokens": [1]})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["limit"] == 20 and len(manifest["starts"]) == 4
    start = manifest["starts"][0]
    assert {"jax", "python"} <= start["versions"].keys()
    assert start["device"]["platform"] and start["command"] and start["time"]
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError) as found:
        records.open_run(folder, {**settings, "alpha": 2.0, "seed": 1}, free=("limit",))
    line = str(found.value)
    assert "--alpha=4.0 --seed=0" in line and "--alpha=2.0 --seed=1" in line
    assert "limit" not in line and "model" not in line and "\n" not in line
    assert (folder / "manifest.json").read_bytes() == before


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="not the folder of a run"):
        records.open_run(tmp_path, {})
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json: not a manifest"):
        records.open_run(tmp_path, {})


def test_the_way_of_asking_is_noted_and_binds_a_run_with_records(tmp_path):
    raw, chat = ({"style": style, "why": f"because {style}"} for style in ("raw", "chat"))
    folder = records.open_run(tmp_path / "run", {"alpha": 4.0})
    records.note_prompts(folder, {"math500": raw})
    records.note_prompts(folder, {"math500": chat})  # no record yet
    with records.RecordFile(folder / "records.jsonl") as file:
        file.append({"id": "t/p0/m/power/0/0", "tokens": [1]})
    records.note_prompts(folder, {"math500": chat | {"why": "other words"}, "gsm8k": raw})
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"chat prompts .other words.* raw .because raw.*--out"):
        records.note_prompts(folder, {"math500": raw})
    assert (folder / "manifest.json").read_bytes() == before
    records.open_run(folder, {"alpha": 4.0})
    prompts = json.loads((folder / "manifest.json").read_text())["prompts"]
    assert prompts == {"math500": {"style": "chat", "why": "other words"}, "gsm8k": raw}


def test_a_manifest_of_the_wrong_shape_is_named(tmp_path):
    path = tmp_path / "manifest.json"
    for text in ("[1]", "5", "{}", '{"settings": [], "starts": []}', "[" * 100_000, '{"a": NaN}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json: not a manifest") as error:
            records.read_manifest(path)
        assert "\n" not in str(error.value)
