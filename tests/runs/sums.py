"""Records of a task of small sums, for tests of what is done with records."""


def record(problem, index, completion="4", **fields) -> dict:
    """Returns the record of one completion of the task "sums", which ended in EOS."""
    name = f"sums/{problem}/m/standard/0/{index}"
    fields = {"completion": completion, "tokens": [index % 90, 0], "finish_reason": "eos", **fields}
    return {"id": name, "task": "sums", "problem_id": problem, **fields}
